"""`mmi world`: fetch the storybook world, look at it, and measure the reader on true scenes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image
from rich.console import Console

from model.training.world.storybook.assets import packages
from model.training.world.storybook.language import requests, stories
from model.training.world.storybook.language.seeing import captions, questions
from model.training.world.storybook.painting.scene import BASE_SIZE, StorybookScene
from model.training.world.storybook.scores import reader_score
from model.training.world.storybook.tasks import sample_scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi world`."""
    parser.add_argument("action", choices=("fetch", "sheet", "language", "accuracy"))
    parser.add_argument("--number", type=int, default=24, help="of scenes or examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/storybook.png"), help="of `sheet`")


def run(args: argparse.Namespace) -> int:
    """Fetch the packages if they are missing, then do what was asked."""
    console = Console()
    packages.fetch()
    rng = random.Random(args.seed)
    if args.action == "sheet":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        sheet([sample_scene(rng) for _ in range(args.number)]).save(args.out)
        console.print(f"{args.number} scenes: {args.out}")
    elif args.action == "language":
        for _ in range(args.number):
            console.print(example(rng), highlight=False, markup=False)
    elif args.action == "accuracy":
        for name, values in accuracy(rng, args.number).items():
            console.print(f"{name:<24} {sum(values) / len(values):.3f} of {len(values)}")
    return 0


def sheet(scenes: list[StorybookScene], columns: int = 6) -> Image.Image:
    """Images of scenes, row by row."""
    rows = -(-len(scenes) // columns)
    canvas = Image.new("RGB", (columns * BASE_SIZE, rows * BASE_SIZE))
    for number, scene in enumerate(scenes):
        row, column = divmod(number, columns)
        canvas.paste(scene.render(), (column * BASE_SIZE, row * BASE_SIZE))
    return canvas


def example(rng: random.Random) -> str:
    """A random request, description, question or story, as text."""
    scene = sample_scene(rng)
    kind = rng.randrange(4)
    if kind == 0:
        return f"> {requests.request(rng, scene).text}\n"
    if kind == 1:
        return f"> [image] {captions.ask(rng)}\n{captions.describe(scene)}\n"
    if kind == 2:
        return "> [image] {}\n{}\n".format(*questions.ask(rng, scene))
    story = stories.sample_story(rng)
    pages = "\n".join(f"{page.text} [image]" for page in story.pages)
    return f"> {story.introduction} [image] {story.wish}\n{pages}\n{story.closing}\n"


def accuracy(rng: random.Random, number: int) -> dict[str, list[float]]:
    """The reader's scores on true scenes."""
    values: dict[str, list[float]] = {}
    for _ in range(number):
        for name, value in reader_score(sample_scene(rng)):
            values.setdefault(name, []).append(value)
    return values

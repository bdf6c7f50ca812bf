"""`mmi bench quality`: the cost of each quality of images, and its distance from many steps.

Every quality generates images of the same held-out requests, from the same contexts and seeds. The
reference are 100 steps of DPM-Solver++. Distances are root mean squared differences of pixels in
[0, 1]. The score is the mean of what the world's reader scores images of the task by.

DDPM adds noise in every step, so its images differ from the reference by more than error. The row
of 100 steps of DDPM shows by how much.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.bench.report import Report, print_table
from model.checkpoint import load, store
from model.checkpoint.shipped import SHIPPED
from model.mm_interleaved import MMInterleaved
from model.offline.story import Story
from model.processor import Processor
from model.sampling_params import QUALITIES, Quality
from model.training.evaluation.answers import segment_of
from model.training.evaluation.images import ImageGenerator, ImageSettings, Unfinished
from model.training.world.example import Example, GeneratedAnswer
from model.training.world.registry import WORLDS, world_of
from model.training.world.world import World

_Array = NDArray[np.float32]
_TASK = "text_to_image"
_MANY = Quality(100, "dpmsolver++")
_GREY = 0.5
_ON_SHEET = 6
_LABEL_PIXELS = 12


@dataclass(frozen=True)
class QualityResult:
    """One quality; distances are means over the images."""

    quality: str
    steps: int
    scheduler: str
    cpu_s_per_image: float
    to_many_steps: float
    to_reference: float
    to_truth: float
    score: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench quality`."""
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--world", choices=WORLDS, default="storybook")
    parser.add_argument("--number", type=int, default=24, help="images of each quality")
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's")
    parser.add_argument("--out", type=Path, metavar="PNG", help="write a sheet of images here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(arguments: argparse.Namespace) -> int:
    """Generate, compare, print, and write the files that are named."""
    world = world_of(arguments.world)
    world.check()
    report = Report(
        number=arguments.number, guidance=arguments.guidance, threads=torch.get_num_threads()
    )
    comparison = Comparison.of(arguments.checkpoint, world, arguments.number, arguments.guidance)
    rows = comparison.results()
    print_table(
        {
            "quality": lambda row: row.quality,
            "steps": lambda row: row.steps,
            "scheduler": lambda row: row.scheduler,
            "CPU s": lambda row: f"{row.cpu_s_per_image:.2f}",
            "to 100 steps": lambda row: f"{row.to_many_steps:.3f}",
            "to ddpm 30": lambda row: f"{row.to_reference:.3f}",
            "to truth": lambda row: f"{row.to_truth:.3f}",
            "score": lambda row: f"{row.score:.3f}",
        },
        rows,
    )
    if arguments.out:
        comparison.sheet().save(arguments.out, optimize=True)
    report.write(arguments.json, {"qualities": [asdict(row) for row in rows]})
    return 0


@dataclass(frozen=True)
class Comparison:
    """Images of the same requests at every quality."""

    world: World
    examples: Sequence[Example]
    qualities: dict[str, Quality]
    images: dict[str, Sequence[Image.Image]]
    cpu_s: dict[str, float]

    @classmethod
    def of(cls, checkpoint: Path, world: World, number: int, guidance: float | None) -> Self:
        """Generate `number` images at every quality with one checkpoint."""
        model = load.load_model(checkpoint)
        processor = Processor(store.load_config(checkpoint), store.load_tokenizer(checkpoint))
        asked = [world.example(_TASK, random.Random(f"quality/{i}")) for i in range(number)]
        stories = [_story(example, processor, seed) for seed, example in enumerate(asked)]
        named = {str(name): quality for name, quality in QUALITIES.items()}
        qualities = {"100 steps": _MANY, "100 steps of ddpm": Quality(100, "ddpm"), **named}
        images: dict[str, Sequence[Image.Image]] = {}
        cpu_s: dict[str, float] = {}
        for name, quality in qualities.items():
            started = time.process_time()
            images[name] = _artist(model, quality, guidance).generate(stories)
            cpu_s[name] = (time.process_time() - started) / number
        return cls(world, asked, qualities, images, cpu_s)

    def results(self) -> list[QualityResult]:
        """One result per quality."""
        truth = _array(self._truth())
        many, reference = _array(self.images["100 steps"]), _array(self.images["reference"])
        return [
            QualityResult(
                name,
                quality.steps,
                quality.scheduler,
                self.cpu_s[name],
                _distance(_array(self.images[name]), many),
                _distance(_array(self.images[name]), reference),
                _distance(_array(self.images[name]), truth),
                self._score(self.images[name]),
            )
            for name, quality in self.qualities.items()
        ]

    def _truth(self) -> list[Image.Image]:
        side = next(iter(self.images.values()))[0].width
        return [example.images[-1].render(side) for example in self.examples]

    def _score(self, images: Sequence[Image.Image]) -> float:
        values: list[float] = []
        for example, image in zip(self.examples, images, strict=True):
            rows = self.world.scores[_TASK](example, GeneratedAnswer((image,), True))
            values.append(float(np.mean([value for _, value in rows])))
        return float(np.mean(values))

    def sheet(self) -> Image.Image:
        """The first images of every quality, one row each, below the true images."""
        rows = {"asked for": self._truth(), **self.images}
        side = self.images["reference"][0].width
        height = side + _LABEL_PIXELS
        columns = min(_ON_SHEET, len(self.examples))
        sheet = Image.new("RGB", (side * columns, height * len(rows)), "white")
        pen = ImageDraw.Draw(sheet)
        for line, (name, images) in enumerate(rows.items()):
            quality = self.qualities.get(name)
            label = f"{name}: {quality.steps} steps, {quality.scheduler}" if quality else name
            pen.text((2, line * height), label, fill="black", font_size=_LABEL_PIXELS - 2)
            for column, image in enumerate(images[:_ON_SHEET]):
                place = (column * side, line * height + _LABEL_PIXELS)
                sheet.paste(image.convert("RGB").resize((side, side)), place)
        return sheet


def _artist(model: MMInterleaved, quality: Quality, guidance: float | None) -> ImageGenerator:
    return ImageGenerator(model, ImageSettings(quality.steps, guidance, quality.scheduler))


def _story(example: Example, processor: Processor, seed: int) -> Unfinished:
    """A request, followed by the placeholders of the image to generate."""
    story = Story.from_context([segment_of(part) for part in example.given], processor)
    pixels_N3SS = story.pixels_N3SS
    undrawn_13SS = pixels_N3SS.new_full((1, *pixels_N3SS.shape[1:]), _GREY)
    ids = (*story.input_ids, *processor.image_ids)
    pixels = torch.cat((pixels_N3SS, undrawn_13SS))
    return Unfinished(ids, pixels, len(pixels_N3SS), seed)


def _array(images: Sequence[Image.Image]) -> _Array:
    """Pixels [N, S, S, 3] in [0, 1]."""
    rows = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
    return np.stack(rows) / np.float32(255)


def _distance(one: _Array, other: _Array) -> float:
    """Root mean squared difference of each image, averaged."""
    return float(np.sqrt(np.square(one - other).mean((1, 2, 3))).mean())

"""`mmi bench quality`: what each quality of images costs, and how far it is from many steps.

Held-out descriptions of the picture-book world are drawn at every quality by the same contexts and
seeds. The yardstick are 100 steps of DPM-Solver++. Distances are root mean squared differences of
pixels in [0, 1]; attributes are what a reader of the images finds as the description says.
DDPM adds noise of its own at every step, so its images differ from the yardstick more than by
error: the row of 100 steps of it shows by how much.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from model.checkpoint import load, store
from model.mm_interleaved import MMInterleaved
from model.offline.story import Story
from model.processor import Processor
from model.sampling_params import QUALITIES, Quality
from model.segments import TextSegment
from model.training.drawing import Artist, DrawingOptions, Unfinished
from model.training.world import examples
from model.training.world.examples import Example
from model.training.world.match import match_scene
from model.training.world.reader import read_scene

Array = NDArray[np.float32]
_MANY = Quality(100, "dpmsolver++")
_GREY = 0.5
_ON_SHEET = 6
_LABEL_PIXELS = 12


@dataclass(frozen=True)
class Row:
    """One way to draw; distances are means over the images."""

    quality: str
    steps: int
    scheduler: str
    cpu_s_per_image: float
    to_many_steps: float
    to_reference: float
    to_truth: float
    attributes: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi bench quality`."""
    parser.add_argument("--checkpoint", type=Path, default=Path("deploy/checkpoints/tiny"))
    parser.add_argument("--number", type=int, default=24, help="pictures of each quality")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--out", type=Path, metavar="PNG", help="write some pictures of each here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(arguments: argparse.Namespace) -> int:
    """Draw, compare, print, and write what was asked for."""
    drawn = Drawn.by(arguments.checkpoint, arguments.number, arguments.guidance)
    rows = drawn.rows()
    table = Table(
        "quality", "steps", "scheduler", "CPU s", "to 100 steps", "to ddpm 30", "to truth"
    )
    table.add_column("attributes")
    for row in rows:
        numbers = (row.to_many_steps, row.to_reference, row.to_truth, row.attributes)
        table.add_row(
            row.quality,
            str(row.steps),
            row.scheduler,
            f"{row.cpu_s_per_image:.2f}",
            *(f"{number:.3f}" for number in numbers),
        )
    Console().print(table)
    if arguments.out:
        drawn.sheet().save(arguments.out, optimize=True)
    if arguments.json:
        document = {
            "number": arguments.number,
            "guidance": arguments.guidance,
            "threads": torch.get_num_threads(),
            "qualities": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


@dataclass(frozen=True)
class Drawn:
    """The same descriptions drawn in every way."""

    asked: Sequence[Example]
    ways: dict[str, Quality]
    pictures: dict[str, Sequence[Image.Image]]
    cpu_s: dict[str, float]

    @classmethod
    def by(cls, checkpoint: Path, number: int, guidance: float) -> Drawn:
        """Draw with one checkpoint."""
        model = load.load_model(checkpoint)
        processor = Processor(store.load_config(checkpoint), store.load_tokenizer(checkpoint))
        asked = [examples.text_to_image(random.Random(f"quality/{i}")) for i in range(number)]
        stories = [_story(example, processor, seed) for seed, example in enumerate(asked)]
        named = {str(name): way for name, way in QUALITIES.items()}
        ways = {"100 steps": _MANY, "100 steps of ddpm": Quality(100, "ddpm"), **named}
        pictures: dict[str, Sequence[Image.Image]] = {}
        cpu_s: dict[str, float] = {}
        for name, way in ways.items():
            started = time.process_time()
            pictures[name] = _artist(model, way, guidance).draw(stories)
            cpu_s[name] = (time.process_time() - started) / number
        return cls(asked, ways, pictures, cpu_s)

    def rows(self) -> list[Row]:
        """The table."""
        truth = _array([example.scenes[-1].render() for example in self.asked])
        many, reference = _array(self.pictures["100 steps"]), _array(self.pictures["reference"])
        return [
            Row(
                name,
                way.steps,
                way.scheduler,
                self.cpu_s[name],
                _distance(_array(self.pictures[name]), many),
                _distance(_array(self.pictures[name]), reference),
                _distance(_array(self.pictures[name]), truth),
                self._attributes(self.pictures[name]),
            )
            for name, way in self.ways.items()
        ]

    def _attributes(self, pictures: Sequence[Image.Image]) -> float:
        """The share of described attributes that images show."""
        found: list[bool] = []
        for example, picture in zip(self.asked, pictures, strict=True):
            found += match_scene(example.scenes[-1], read_scene(picture)).values()
        return float(np.mean(found))

    def sheet(self) -> Image.Image:
        """Some images of every way, a row for each, under what was asked for."""
        truth = [example.scenes[-1].render() for example in self.asked]
        rows = {"asked for": truth, **self.pictures}
        side = self.pictures["reference"][0].width
        height = side + _LABEL_PIXELS
        sheet = Image.new("RGB", (side * min(_ON_SHEET, len(truth)), height * len(rows)), "white")
        pen = ImageDraw.Draw(sheet)
        for line, (name, pictures) in enumerate(rows.items()):
            way = self.ways.get(name)
            label = f"{name}: {way.steps} steps, {way.scheduler}" if way else name
            pen.text((2, line * height), label, fill="black", font_size=_LABEL_PIXELS - 2)
            for column, picture in enumerate(pictures[:_ON_SHEET]):
                place = (column * side, line * height + _LABEL_PIXELS)
                sheet.paste(picture.convert("RGB").resize((side, side)), place)
        return sheet


def _artist(model: MMInterleaved, way: Quality, guidance: float) -> Artist:
    return Artist(model, DrawingOptions(way.steps, guidance, way.scheduler))


def _story(example: Example, processor: Processor, seed: int) -> Unfinished:
    """A description and the placeholders of the image that it asks for."""
    story = Story.from_context([TextSegment(str(example.prompt[0]))], processor)
    pixels_N3SS = story.pixels_N3SS
    undrawn_13SS = pixels_N3SS.new_full((1, *pixels_N3SS.shape[1:]), _GREY)
    ids = (*story.input_ids, *processor.image_ids)
    return Unfinished(ids, torch.cat((pixels_N3SS, undrawn_13SS)), seed)


def _array(pictures: Sequence[Image.Image]) -> Array:
    """Pixels [N, S, S, 3] in [0, 1]."""
    rows = [np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures]
    return np.stack(rows) / np.float32(255)


def _distance(one: Array, other: Array) -> float:
    """Root mean squared difference of each image, averaged."""
    return float(np.sqrt(np.square(one - other).mean((1, 2, 3))).mean())

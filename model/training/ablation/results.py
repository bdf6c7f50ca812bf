"""Scores of a variant on held-out examples, with intervals and tables."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import collate, images_of, pixels_of, tokenise
from model.training.data.features import FeatureBank
from model.training.evaluation.images import ImageGenerator, ImageSettings, Unfinished
from model.training.world.drawn.reader import match_hero, read_scene
from model.training.world.drawn.tasks import scenes_of
from model.training.world.drawn.world import Stock
from model.training.world.example import Example, Part
from model.training.world.words import ORDINALS

_BOOTSTRAPS = 2000
Scores = Mapping[str, Sequence[float]]
Summary = dict[str, dict[str, float]]


def summarise(runs: Sequence[Scores]) -> Summary:
    """Means over the runs of one variant, with 95 % bootstrap intervals.

    A bootstrap draws seeds with replacement, then examples of each drawn seed.
    """
    by_name: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = defaultdict(list)
    for run in runs:
        for name, values in run.items():
            by_name[name].append(np.array(values))
    generator = np.random.default_rng(0)
    summary: Summary = {}
    for name, arrays in by_name.items():
        means = [
            np.mean(
                [
                    generator.choice(arrays[i], len(arrays[i])).mean()
                    for i in generator.integers(len(arrays), size=len(arrays))
                ]
            )
            for _ in range(_BOOTSTRAPS)
        ]
        low, high = np.quantile(means, (0.025, 0.975))
        summary[name] = {
            "mean": round(float(np.mean([array.mean() for array in arrays])), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "seeds": len(arrays),
            "examples": sum(map(len, arrays)),
        }
    return summary


def collect(rows: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Values by the names of their scores."""
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in rows:
        values[name].append(value)
    return dict(values)


def as_markdown(table: Mapping[str, Summary]) -> str:
    """A row for every score, a column for every variant."""
    names = list(dict.fromkeys(name for summary in table.values() for name in summary))
    lines = [
        "| synchronizer in | " + " | ".join(table) + " |",
        "|---" * (len(table) + 1) + "|",
    ]
    for name in names:
        cells = [_cell(summary.get(name)) for summary in table.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float] | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


_BATCH = 40
Shares = list[tuple[str, float]]


@torch.no_grad()
def answered_details(
    model: MMInterleaved, processor: Processor, bank: FeatureBank, stock: Stock, number: int
) -> Shares:
    """Whether greedy decoding gives the exact answer, by the position of the image in question.

    It does if every token is the most likely one after the true tokens before it.
    """
    rng = random.Random("ablation/held-out questions")
    sequences = [tokenise(stock.questions(rng, 1), processor) for _ in range(number)]
    rows: Shares = []
    for start in range(0, number, _BATCH):
        part = sequences[start : start + _BATCH]
        batch, labels_BL = collate(part, processor, learn_prompt=False, with_pixels=False)
        visual = bank.features(model.visual_tokenizer, images_of(part))
        hidden_BLD = model(batch, visual).hidden_BLD
        best_BL = model.text_decoder(hidden_BLD[:, :-1]).argmax(-1)
        is_right_B = ((best_BL == labels_BL) | (labels_BL < 0)).all(1)
        for sequence, is_right in zip(part, is_right_B.tolist(), strict=True):
            rows.append(("detail question", float(is_right)))
            rows.append((f"detail question, {_where(sequence.example)}", float(is_right)))
    return rows


def _where(example: Example) -> str:
    """Which image is asked about, counted from the question."""
    number = len(example.images)
    asked = next(
        (i for i, o in enumerate(ORDINALS) if f"the {o} pic" in str(example.prompt[-1])), 0
    )
    return f"{number - asked} pictures back" if number - asked > 1 else "last picture"


@dataclass(frozen=True)
class _Generated:
    """An image that the model generated."""

    image: Image.Image

    def render(self, size: int = 96) -> Image.Image:
        """The pixels, RGB, `size` square."""
        return self.image.resize((size, size))


def generated_stories(
    model: MMInterleaved, processor: Processor, stories: Sequence[Example], options: ImageSettings
) -> Shares:
    """Whether the hero keeps its looks when each image follows the model's own images."""
    generator = ImageGenerator(model, options)
    pages: list[list[_Generated]] = [[] for _ in stories]
    longest = max(len(story.images) - 1 for story in stories)
    rows: Shares = []
    for page in range(longest):
        indices = [i for i, story in enumerate(stories) if page < len(story.images) - 1]
        todo = [_unfinished(stories[i], pages[i], processor, seed=100 * i + page) for i in indices]
        for index, image in zip(indices, generator.generate(todo), strict=True):
            pages[index].append(_Generated(image))
            rows += _hero_scores(stories[index], image, page)
    return rows


def _hero_scores(story: Example, image: Image.Image, page: int) -> Iterator[tuple[str, float]]:
    matches = match_hero(scenes_of(story)[0], read_scene(image))
    yield "hero kept", float(all(matches.values()))
    yield f"hero kept, picture {page + 1}", float(all(matches.values()))
    for name, is_same in matches.items():
        yield name if name != "hero" else "hero there", float(is_same)


def _unfinished(
    story: Example, drawn: Sequence[_Generated], processor: Processor, seed: int
) -> Unfinished:
    """The story with its own words and the generated images, up to the next image."""
    pages = iter(drawn)
    answer: list[Part] = []
    for part in story.answer:
        if isinstance(part, str):
            answer.append(part)
            continue
        before = next(pages, None)
        answer.append(before or part)
        if before is None:
            break
    example = Example(story.task, story.prompt, tuple(answer))
    ids = tokenise(example, processor).ids[:-1]
    size = processor.config.vision.image_size
    pixels = [pixels_of(image.render(size)) for image in example.images]
    return Unfinished(ids, torch.stack(pixels), example.num_given_images, seed)

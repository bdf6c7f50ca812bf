"""Scores of a variant on what it has not seen."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import collate, pictures_of, pixels_of, tokenise
from model.training.drawing import Artist, DrawingOptions, Unfinished
from model.training.features import FeatureBank
from model.training.stock import Stock
from model.training.world.examples import Example, Part
from model.training.world.language import ORDINALS
from model.training.world.match import match_hero
from model.training.world.reader import read_scene

_BATCH = 40
Rows = list[tuple[str, float]]


@torch.no_grad()
def answered_details(
    model: MMInterleaved, processor: Processor, bank: FeatureBank, stock: Stock, number: int
) -> Rows:
    """Whether greedy decoding gives the exact answer, by the position of the picture in question.

    It does if, with the true answer before it, every token is the likeliest.
    """
    rng = random.Random("ablation/held-out questions")
    sequences = [tokenise(stock.questions(rng, 1), processor) for _ in range(number)]
    rows: Rows = []
    for start in range(0, number, _BATCH):
        part = sequences[start : start + _BATCH]
        batch, labels_BL = collate(part, processor, learn_prompt=False, with_pixels=False)
        visual = bank.features(model.visual_tokenizer, pictures_of(part))
        hidden_BLD = model(batch, visual).hidden_BLD
        best_BL = model.text_decoder(hidden_BLD[:, :-1]).argmax(-1)
        is_right_B = ((best_BL == labels_BL) | (labels_BL < 0)).all(1)
        for sequence, is_right in zip(part, is_right_B.tolist(), strict=True):
            rows.append(("detail question", float(is_right)))
            rows.append((f"detail question, {_where(sequence.example)}", float(is_right)))
    return rows


def _where(example: Example) -> str:
    """Which picture is asked about, counted from the question."""
    number = len(example.pictures)
    asked = next(
        (i for i, o in enumerate(ORDINALS) if f"the {o} pic" in str(example.prompt[-1])), 0
    )
    return f"{number - asked} pictures back" if number - asked > 1 else "last picture"


@dataclass(frozen=True)
class _Drawn:
    """A picture that a model drew."""

    image: Image.Image

    def render(self, size: int = 96) -> Image.Image:
        """The pixels, RGB, `size` square."""
        return self.image.resize((size, size))


def drawn_stories(
    model: MMInterleaved, processor: Processor, stories: Sequence[Example], options: DrawingOptions
) -> Rows:
    """Whether the hero keeps its looks, when each picture sees the model's own before it."""
    artist = Artist(model, options)
    pages: list[list[_Drawn]] = [[] for _ in stories]
    longest = max(len(story.pictures) - 1 for story in stories)
    rows: Rows = []
    for page in range(longest):
        indices = [i for i, story in enumerate(stories) if page < len(story.pictures) - 1]
        todo = [_unfinished(stories[i], pages[i], processor, seed=100 * i + page) for i in indices]
        for index, image in zip(indices, artist.draw(todo), strict=True):
            pages[index].append(_Drawn(image))
            rows += _hero_scores(stories[index], image, page)
    return rows


def _hero_scores(story: Example, image: Image.Image, page: int) -> Iterator[tuple[str, float]]:
    matches = match_hero(story.scenes[0], read_scene(image))
    yield "hero kept", float(all(matches.values()))
    yield f"hero kept, picture {page + 1}", float(all(matches.values()))
    for name, is_same in matches.items():
        yield name if name != "hero" else "hero there", float(is_same)


def _unfinished(
    story: Example, drawn: Sequence[_Drawn], processor: Processor, seed: int
) -> Unfinished:
    """The story with its own words and the drawn pictures, up to the next picture."""
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
    pixels = [pixels_of(picture.render(size)) for picture in example.pictures]
    return Unfinished(ids, torch.stack(pixels), seed)

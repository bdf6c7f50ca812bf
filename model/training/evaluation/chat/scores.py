"""Scores of plain questions beside the untouched language model, and unrequested images."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from model.checkpoint import store
from model.checkpoint.packaged import base_model
from model.checkpoint.packaged.base_model import SMOLLM2
from model.config.presets import preset
from model.processor import Processor
from model.training.evaluation.answers import Answerer, AnswerOptions, OfflineAnswerer
from model.training.evaluation.chat.questions import questions
from model.training.targets.chat import untouched
from model.training.world.world import ExampleMaker

RIGHT = "chat right"
UNTOUCHED = "chat right, untouched language model"
RATIO = "chat right, relative to the untouched language model"
_ASKING = "text_to_image"
_BOOTSTRAPS = 2000


def untouched_answerer(checkpoint: Path | None, answering: AnswerOptions) -> OfflineAnswerer | None:
    """The language model that a checkpoint was built around, as it came, in its chat template.

    Without a checkpoint, as for a served system, it is that of the preset `storybook`.

    Returns:
        None if the checkpoint has a language model of its own.
    """
    base = SMOLLM2 if checkpoint is None else base_model.base_of(checkpoint)
    if base is None:
        return None
    config = preset("storybook") if checkpoint is None else store.load_config(checkpoint)
    tokenizer = base_model.tokenizer(base, config)
    return OfflineAnswerer(untouched(config, base), Processor(config, tokenizer), answering)


def question_rows(
    answerer: Answerer, reference: Answerer | None, start: int, stop: int
) -> Iterator[tuple[str, float]]:
    """The scores of some questions; `reference` is the untouched language model."""
    asked = questions()[start:stop]
    examples = [question.example for question in asked]
    for question, answer in zip(asked, answerer.answer(examples, start), strict=True):
        is_right = float(question.is_right(answer.text))
        yield RIGHT, is_right
        yield f"{RIGHT}, {question.kind}", is_right
        yield "chat image though none was asked for", float(bool(answer.images))
    if reference is not None:
        for question, answer in zip(asked, reference.answer(examples, start), strict=True):
            yield UNTOUCHED, float(question.is_right(answer.text))


def request_rows(
    answerer: Answerer, world: ExampleMaker, lots: Sequence[random.Random], start: int
) -> Iterator[tuple[str, float]]:
    """How often a request for an image gets none."""
    examples = [world.example(_ASKING, rng) for rng in lots]
    for answer in answerer.answer(examples, start):
        yield "chat no image though one was asked for", float(not answer.images)


def ratio_row(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How often ours is right for every time that the untouched model is; questions are resampled.

    Returns:
        No row if the untouched model was not asked, or never right.
    """
    ours, theirs = (np.array(values.get(name, ())) for name in (RIGHT, UNTOUCHED))
    if not theirs.sum():
        return {}
    drawn = np.random.default_rng(0).integers(len(ours), size=(_BOOTSTRAPS, len(ours)))
    ratios = ours[drawn].sum(1) / np.maximum(theirs[drawn].sum(1), 1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    row = {"mean": ours.sum() / theirs.sum(), "low": low, "high": high}
    return {RATIO: {name: round(float(v), 4) for name, v in row.items()} | {"number": len(ours)}}

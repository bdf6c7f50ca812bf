"""Answers in batches are the offline engine's; scores of perfect answers are perfect."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.offline.story import OfflineEngine, OfflineOptions, Story
from model.processor import Processor
from model.segments import ImageSegment, TextSegment
from model.training.answers import Answer, Answering, OfflineAnswerer, max_pictures
from model.training.drawing import Artist, DrawingOptions, Unfinished
from model.training.scores import SCORES
from model.training.world.examples import TASKS, Example

QUICK = DrawingOptions(num_inference_steps=2, batch_size=2)


def _story(example: Example, processor: Processor) -> Story:
    segments = [
        TextSegment(part) if isinstance(part, str) else ImageSegment(part.render(), "")
        for part in example.prompt
    ]
    return Story.from_context(segments, processor).asking_for_image(processor)


def test_pictures_of_a_batch_are_the_offline_engines(
    model: MMInterleaved, processor: Processor
) -> None:
    stories = [_story(TASKS["story"](random.Random(n), "drawn"), processor) for n in (1, 2, 3)]
    todo = [Unfinished(s.input_ids, s.pixels_N3SS, seed=5) for s in stories]
    drawn = Artist(model.eval(), QUICK).draw(todo)
    options = OfflineOptions(
        num_inference_steps=2, guidance_scale=3.0, scheduler="dpmsolver++", seed=5
    )
    engine = OfflineEngine(model, processor, options)
    for story, picture in zip(stories, drawn, strict=True):
        alone = np.asarray(engine.draw(story).images[0], dtype=int)
        assert np.abs(np.asarray(picture, dtype=int) - alone).max() <= 1


def test_answers_do_not_depend_on_who_shares_the_batch(
    model: MMInterleaved, processor: Processor
) -> None:
    with torch.no_grad():
        model.text_decoder.head_new.bias[0] = 200.0  # Every text begins a picture at once.
    answerer = OfflineAnswerer(model.eval(), processor, Answering(QUICK))
    examples = [TASKS[name](random.Random(7), "drawn") for name in ("caption", "story")]
    together = answerer.answer(examples)
    for number, example in enumerate(examples):
        (alone,) = answerer.answer([example], first=number)
        assert alone.text == together[number].text
        assert len(alone.pictures) == len(together[number].pictures) == max_pictures(example)
        assert alone.ended == together[number].ended


@pytest.mark.parametrize("task", SCORES)
def test_true_answers_score_one(task: str) -> None:
    score = SCORES[task]
    for seed in range(3):
        example = score.draw(random.Random(seed), "drawn")
        parts = tuple(p if isinstance(p, str) else p.render() for p in example.answer)
        rows = dict(score.rate(example, Answer(parts, ended=True), "drawn"))
        assert set(rows.values()) == {1.0}, rows
        nothing = dict(score.rate(example, Answer((), ended=True), "drawn"))
        assert set(nothing.values()) == {0.0}, nothing

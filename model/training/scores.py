"""Scores of the six tasks on held-out examples."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from model.processor import Processor
from model.training.answers import Answerer
from model.training.data import collate, tokenise
from model.training.objectives.vision import any_scene
from model.training.world import examples, language
from model.training.world.match import box_overlap, match_hero, match_scene, mean_overlap
from model.training.world.reader import read_scene
from model.training.world.scene import Scene

Rows = Iterator[tuple[str, float]]
HELD_OUT = "held-out"


def detail_questions(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Exact answers, by the position of the picture that is asked about."""
    example = examples.detail_question(rng, object_set)
    asked = next(
        (o for o in language.ORDINALS if f"the {o} picture" in str(example.prompt[-1])), "only"
    )
    is_right = answerer.answer(example).text.strip() == example.answer[0]
    yield "detail question", float(is_right)
    yield f"detail question, {asked} picture", float(is_right)


def captions(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """How many of the things, with all adjectives and the place, a description names."""
    example = examples.caption(rng, object_set)
    scene = example.scenes[0]
    text = answerer.answer(example).text.lower()
    phrases = [f"{language.noun_phrase(t)} {language.side(t.slot)}" for t in scene.things]
    phrases += [language.at_place(scene.background.place), language.when(scene.background)]
    yield "caption recall", sum(phrase in text for phrase in phrases) / len(phrases)


def groundings(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Overlap of the answered box with the true one."""
    example = examples.grounding(rng, object_set)
    boxes = [
        [int(number) / 99 for number in re.findall(r"\d+", text)]
        for text in (answerer.answer(example).text, str(example.answer[0]))
    ]
    read, true = boxes
    if len(read) != 4:
        yield "grounding IoU", 0.0
        return
    yield "grounding IoU", box_overlap((read[0], read[1], read[2], read[3]), _box(true))


def _box(numbers: list[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


def drawings(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Attributes of a description that its picture shows."""
    example = examples.text_to_image(rng, object_set)
    wanted = example.answer[0]
    pictures = answerer.answer(example).pictures
    assert isinstance(wanted, examples.Picture)
    yield "text-to-image begins a picture", float(bool(pictures))
    for name, value in _scene_scores(wanted.scene, pictures, object_set):
        yield f"text-to-image {name}", value


def painted_maps(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Overlap of the label map with the one read from the painted picture."""
    example = examples.segmentation_to_image(rng, object_set)
    pictures = answerer.answer(example).pictures
    wanted = example.scenes[0]
    seen = read_scene(pictures[0], object_set) if pictures else Scene(wanted.background)
    yield "segmentation-to-image mIoU", mean_overlap(wanted, seen)


def stories(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Whether a story has its form, keeps its hero, and shows what its text says."""
    example = examples.story(rng, object_set)
    asked = sum(not isinstance(part, str) for part in example.answer)
    portrait = example.scenes[0]
    answer = answerer.answer(example)
    yield (
        "story has the pictures asked for, and ends",
        float(len(answer.pictures) == asked and answer.ended),
    )
    for number, picture in enumerate(answer.pictures[:4]):
        matches = match_hero(portrait, read_scene(picture, object_set))
        yield "story hero kept", float(all(matches.values()))
        yield f"story hero kept, picture {number + 1}", float(all(matches.values()))
        for name, is_same in matches.items():
            yield f"story {name}", float(is_same)
    for text, drawn in pairwise(answer.parts):
        if isinstance(text, str) and not isinstance(drawn, str):
            shows = _shows(text, read_scene(drawn, object_set))
            yield "story picture shows the thing of its text", shows


def _shows(text: str, seen: Scene) -> float:
    """Whether one of the seen things is named by the text, with its size and colour."""
    return float(any(language.noun_phrase(thing) in text for thing in seen.things))


def reader(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """The reader's own accuracy, on true pictures."""
    scene = any_scene(rng, object_set)
    seen = read_scene(scene.render(), object_set)
    matches = match_scene(scene, seen)
    if scene.hero is not None:
        matches |= match_hero(scene, seen)
    yield "reader on true pictures", float(np.mean(list(matches.values())))


@torch.no_grad()
def perplexity(answerer: Answerer, rng: random.Random, object_set: str) -> Rows:
    """Cross-entropy of a held-out story's text (its exponential is the perplexity)."""
    processor: Processor = answerer.processor
    sequence = tokenise(examples.story(rng, object_set), processor)
    batch, labels_BL = collate([sequence], processor, learn_prompt=False)
    model = answerer.engine.model
    _, hidden_BLD = model.read(batch)
    yield "story text, nats a token", float(model.text_loss(hidden_BLD, batch, labels_BL))


SCORES: dict[str, Callable[[Answerer, random.Random, str], Rows]] = {
    "detail_question": detail_questions,
    "caption": captions,
    "grounding": groundings,
    "text_to_image": drawings,
    "segmentation_to_image": painted_maps,
    "story": stories,
    "reader": reader,
    "perplexity": perplexity,
}


def _scene_scores(
    wanted: Scene, pictures: tuple[object, ...], object_set: str
) -> Iterator[tuple[str, float]]:
    """Attributes one by one (without their slot), and their mean."""
    empty = replace(wanted, things=())
    seen = read_scene(pictures[0], object_set) if pictures else empty  # type: ignore[arg-type]
    matches = match_scene(wanted, seen)
    by_name: dict[str, list[bool]] = defaultdict(list)
    for name, is_right in matches.items():
        by_name[name.rpartition(" ")[2]].append(is_right)
    for name, values in by_name.items():
        yield name, float(np.mean(values))
    yield "attributes", float(np.mean(list(matches.values())))

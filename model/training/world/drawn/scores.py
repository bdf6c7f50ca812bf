"""Scores of the six tasks: an example and its answer give named values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from model.training.world.drawable import box_overlap
from model.training.world.drawn.language import phrases as language
from model.training.world.drawn.painting.objects import available_sets
from model.training.world.drawn.painting.scene import Scene
from model.training.world.drawn.reader import (
    match_hero,
    match_scene,
    mean_overlap,
    read_scene,
)
from model.training.world.drawn.tasks import scenes_of
from model.training.world.example import Example, GeneratedAnswer, Rows
from model.training.world.words import ORDINALS


def _detail_question(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """Exact matches, by the position of the image in question."""
    question = str(example.prompt[-1])
    asked = next((o for o in ORDINALS if f"the {o} picture" in question), "only")
    is_right = answer.text.strip() == example.answer[0]
    yield "detail question", float(is_right)
    yield f"detail question, {asked} picture", float(is_right)


def _caption(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """The share of phrases (things with adjectives, place, weather) that a description names."""
    scene = scenes_of(example)[0]
    text = answer.text.lower()
    phrases = [f"{language.noun_phrase(t)} {language.side(t.slot)}" for t in scene.things]
    phrases += [language.at_place(scene.background.place), language.when(scene.background)]
    yield "caption recall", sum(phrase in text for phrase in phrases) / len(phrases)


def _grounding(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """Overlap of the answered box with the true one."""
    boxes = [
        tuple(int(number) / 99 for number in re.findall(r"\d+", text))
        for text in (answer.text, str(example.answer[0]))
    ]
    read, true = boxes
    is_box = len(read) == 4
    yield "grounding IoU", box_overlap(read, true) if is_box else 0.0  # type: ignore[arg-type]


def _text_to_image(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """Attributes of a description that its image shows."""
    yield "text-to-image begins a picture", float(bool(answer.images))
    wanted = scenes_of(example)[-1]
    seen = replace(wanted, things=())
    if answer.images:
        seen = read_scene(answer.images[0], objects)
    matches = match_scene(wanted, seen)
    by_name: dict[str, list[bool]] = defaultdict(list)
    for name, is_right in matches.items():
        by_name[name.rpartition(" ")[2]].append(is_right and bool(answer.images))
    for name, values in by_name.items():
        yield f"text-to-image {name}", float(np.mean(values))
    yield "text-to-image attributes", float(np.mean([v for vs in by_name.values() for v in vs]))


def _segmentation_to_image(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """Overlap of the label map with the one read from the painted image."""
    if not answer.images:
        yield "segmentation-to-image mIoU", 0.0
        return
    seen = read_scene(answer.images[0], objects)
    yield "segmentation-to-image mIoU", mean_overlap(scenes_of(example)[0], seen)


def _story(example: Example, answer: GeneratedAnswer, objects: str) -> Rows:
    """Whether a story has the requested form, keeps its hero, and shows what its text says."""
    asked = sum(not isinstance(part, str) for part in example.answer)
    portrait = scenes_of(example)[0]
    is_as_asked = len(answer.images) == asked and answer.ended
    yield "story has the pictures asked for, and ends", float(is_as_asked)
    for number, image in enumerate(answer.images[:4]):
        matches = match_hero(portrait, read_scene(image, objects))
        yield "story hero kept", float(all(matches.values()))
        yield f"story hero kept, picture {number + 1}", float(all(matches.values()))
        for name, is_same in matches.items():
            yield f"story {'hero there' if name == 'hero' else name}", float(is_same)
    for text, drawn in pairwise(answer.parts):
        if isinstance(text, str) and not isinstance(drawn, str):
            # Later pages name other things, from any set that the model has learned.
            shows = _shows(text, read_scene(drawn, available_sets()))
            yield "story picture shows the thing of its text", shows


def _shows(text: str, seen: Scene) -> float:
    """Whether one of the seen things is named by the text, with its size and colour."""
    return float(any(language.noun_phrase(thing) in text for thing in seen.things))


def reader_score(scene: Scene, objects: str) -> Rows:
    """The reader's own accuracy, on a true image."""
    seen = read_scene(scene.render(), objects)
    matches = match_scene(scene, seen)
    if scene.hero is not None:
        matches |= match_hero(scene, seen)
    yield "reader on true pictures", float(np.mean(list(matches.values())))


ScoreOfSets = Callable[[Example, GeneratedAnswer, str], Rows]
"""A score that knows the sets of objects, a name of `OBJECT_SETS` or several joined by "+"."""

SCORES: dict[str, ScoreOfSets] = {
    "detail_question": _detail_question,
    "caption": _caption,
    "grounding": _grounding,
    "text_to_image": _text_to_image,
    "segmentation_to_image": _segmentation_to_image,
    "story": _story,
}

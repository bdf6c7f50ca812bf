"""The world is deterministic, and its reader reads true pictures right."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from model.training.world.emoji import EmojiPictures
from model.training.world.examples import TASKS, Picture, any_scene
from model.training.world.match import box_overlap, match_hero, match_scene, mean_overlap
from model.training.world.reader import read_scene
from model.training.world.scene import LABELS, Scene
from model.training.world.story import draw_story

SETS = [
    "drawn",
    *(["emoji"] if EmojiPictures.available() else []),
]


@pytest.mark.parametrize("object_set", SETS)
@pytest.mark.parametrize("task", TASKS)
def test_examples_depend_on_the_seed_alone(task: str, object_set: str) -> None:
    first, again = (TASKS[task](random.Random(5), object_set) for _ in range(2))
    other = TASKS[task](random.Random(6), object_set)
    assert first == again
    assert first != other
    for mine, theirs in zip(first.pictures, again.pictures, strict=True):
        assert np.array_equal(np.asarray(mine.render()), np.asarray(theirs.render()))


@pytest.mark.parametrize("object_set", SETS)
def test_reader_recovers_true_scenes(object_set: str) -> None:
    rng = random.Random(3)
    for _ in range(25):
        scene = any_scene(rng, object_set)
        seen = read_scene(scene.render(), object_set)
        assert all(match_scene(scene, seen).values())
        assert mean_overlap(scene, seen) == 1.0
        if scene.hero is not None:
            assert all(match_hero(scene, seen).values())


def test_reader_sees_what_is_wrong() -> None:
    scene = Scene.draw_lots(random.Random(8))
    thing = scene.things[0]
    assert thing.colour is not None
    other = replace(thing, colour="red" if thing.colour != "red" else "blue")
    matches = match_scene(scene, read_scene(replace(scene, things=(other,)).render()))
    assert matches[f"{thing.slot} object"]
    assert not matches[f"{thing.slot} colour"]


def test_label_map_covers_things_where_their_boxes_are() -> None:
    scene = Scene.draw_lots(random.Random(2))
    labels = scene.label_map()
    for thing in scene.things:
        rows, columns = np.nonzero(labels == LABELS.index(thing.kind))
        x0, y0, x1, y1 = (round(96 * edge) for edge in scene.box(thing.slot))
        assert x0 <= columns.min()
        assert columns.max() < x1
        assert y0 <= rows.min()
        assert rows.max() < y1


def test_stories_name_what_their_pictures_show_and_keep_the_hero() -> None:
    for seed in range(20):
        story = draw_story(random.Random(seed))
        assert story.pages
        for page in story.pages:
            assert page.scene.hero == story.portrait.hero
            thing = page.scene.things[0]
            assert f"{thing.size} {thing.colour} {thing.kind}" in page.text
        hero = story.portrait.hero
        assert hero is not None
        said = " ".join([story.introduction, story.wish, *(p.text for p in story.pages)])
        assert hero.texture not in said


def test_label_maps_are_pictures_of_the_same_size() -> None:
    scene = Scene.draw_lots(random.Random(2))
    assert Picture(scene, as_label_map=True).render(48).size == (48, 48)


def test_box_overlap() -> None:
    assert box_overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert box_overlap((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert box_overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0

"""The reader reads true images right."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.training.world.drawn.painting.objects import EmojiImages
from model.training.world.drawn.painting.scene import Scene
from model.training.world.drawn.reader import (
    match_hero,
    match_scene,
    mean_overlap,
    read_scene,
)
from model.training.world.drawn.tasks import any_scene

SETS = [
    "drawn",
    *(["emoji"] if EmojiImages.available() else []),
]


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
    scene = Scene.sample(random.Random(8))
    thing = scene.things[0]
    assert thing.colour is not None
    other = replace(thing, colour="red" if thing.colour != "red" else "blue")
    matches = match_scene(scene, read_scene(replace(scene, things=(other,)).render()))
    assert matches[f"{thing.slot} object"]
    assert not matches[f"{thing.slot} colour"]

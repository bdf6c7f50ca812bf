"""What is to be drawn stands in a row that follows from the things and their order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.training.world.storybook.painting.composition import composed, in_common_view
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.image import image_of
from model.training.world.storybook.painting.scene import (
    Stand,
    StorybookScene,
    StorybookThing,
    thing_layer,
)
from model.training.world.storybook.tasks import change, story, text_to_image

pytestmark = pytest.mark.usefixtures("storybook_packages")


def _scenes(number: int) -> list[StorybookScene]:
    rng = random.Random(3)
    return [StorybookScene.sample(rng, 3, Hero.sample(rng)) for _ in range(number)]


def test_the_same_things_stand_in_the_same_order() -> None:
    for scene in _scenes(50):
        row = composed(scene)
        kinds = [[getattr(entry, "noun", "hero") for entry in s.entries] for s in (scene, row)]
        assert kinds[0] == kinds[1]
        assert row.hero == scene.hero
        assert row.setting == replace(scene.setting, view=row.setting.view)
        assert row.setting.view in (0, 1)


def test_positions_follow_from_the_things_alone() -> None:
    for scene in _scenes(20):
        moved = replace(
            scene,
            things=tuple(replace(t, x=t.x * 0.9, y=0.8) for t in scene.things),
            stand=scene.stand and replace(scene.stand, x=scene.stand.x * 0.9),
        )
        assert composed(moved) == composed(scene) == composed(composed(scene))


def test_things_lie_inside_and_on_the_grid_of_the_latents() -> None:
    for scene in _scenes(50):
        for thing in composed(scene).things:
            layer = thing_layer(thing, 192)
            height, width = layer.pixels_hw4.shape[:2]
            assert (layer.left % 8, (layer.top + height) % 8) == (0, 0)
            assert layer.left >= -8 and layer.left + width <= 200


def test_a_hero_can_come_first() -> None:
    for scene in _scenes(20):
        first, *others = composed(scene, hero_first=True).entries
        assert isinstance(first, Stand)
        assert all(isinstance(entry, StorybookThing) for entry in others)


def test_what_a_story_draws_is_composed() -> None:
    rng = random.Random(5)
    for example in (story(rng), change(rng), text_to_image(rng)):
        drawn = image_of(example.images[-1])
        assert in_common_view(drawn.scene) == drawn.scene
        if not drawn.tells_sides:
            assert composed(drawn.scene) == drawn.scene
        if not drawn.tells_look:
            assert isinstance(drawn.scene.entries[0], Stand)

"""What is to be drawn stands in a row that follows from the things and their order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import (
    Stand,
    StorybookScene,
    StorybookThing,
)
from model.training.world.storybook.tasks import change, story, text_to_image
from model.training.world.storybook.telling.composition import (
    AIR,
    GRID,
    GROUND,
    at_sides,
    cell_of,
    in_a_row,
    width_in_cells,
)
from model.training.world.storybook.telling.group import groups, items
from model.training.world.storybook.telling.image import image_of

pytestmark = pytest.mark.usefixtures("storybook_packages")


def _scenes(number: int) -> list[StorybookScene]:
    rng = random.Random(3)
    return [StorybookScene.sample(rng, 3, Hero.sample(rng)) for _ in range(number)]


def test_the_same_things_stand_in_the_same_order() -> None:
    for scene in _scenes(50):
        row = in_a_row(scene)
        kinds = [[getattr(item, "noun", "hero") for item in items(s)] for s in (scene, row)]
        assert kinds[0] == kinds[1]
        assert row.hero == scene.hero
        assert row.setting == replace(scene.setting, view=0)


def test_equal_things_stand_next_to_each_other() -> None:
    scene = _scenes(1)[0]
    thing, hero = scene.things[0], scene.stand
    assert hero is not None
    pair = tuple(replace(thing, x=x) for x in (0.2, 0.6))
    between = replace(scene, things=pair, stand=replace(hero, x=0.35))
    told = [isinstance(entry, Stand) for entry in in_a_row(between).entries]
    assert told == [True, False, False]


def test_positions_follow_from_the_things_alone() -> None:
    for scene in _scenes(20):
        moved = replace(
            scene,
            things=tuple(replace(t, x=t.x * 0.9, y=0.8) for t in scene.things),
            stand=scene.stand and replace(scene.stand, x=scene.stand.x * 0.9),
        )
        assert in_a_row(moved) == in_a_row(scene) == in_a_row(in_a_row(scene))


def test_boxes_begin_at_cells_and_slots_depend_on_the_number_alone() -> None:
    for scene in _scenes(50):
        entries = in_a_row(scene).entries
        slot = GRID / len(entries)
        for number, entry in enumerate(entries):
            width, start = width_in_cells(entry), cell_of(entry)
            assert start / GRID + width / 2 / GRID == pytest.approx(entry.x, abs=1e-3)
            assert entry.y * GRID in (GROUND, AIR)
            assert 0 <= start <= GRID - width
            if 0 < start < GRID - width:
                assert abs(start + width / 2 - (number + 0.5) * slot) <= 0.5


def test_a_hero_can_come_first() -> None:
    for scene in _scenes(20):
        first, *others = in_a_row(scene, hero_first=True).entries
        assert isinstance(first, Stand)
        assert all(isinstance(entry, StorybookThing) for entry in others)


def test_at_sides_words_tell_where_things_are() -> None:
    for scene in _scenes(50):
        standing = at_sides(scene)
        assert at_sides(standing) == standing
        assert [(group.noun, group.side) for group in groups(standing)] == [
            (group.noun, group.side) for group in groups(scene)
        ]


def test_one_thing_stands_in_the_middle_of_its_side() -> None:
    for x, middle in ((0.2, 1 / 4), (0.4, 1 / 2), (0.8, 3 / 4)):
        scene = StorybookScene(
            Setting("meadow", 2, "day"), (StorybookThing("apple", "small", x, 0.8),)
        )
        assert at_sides(scene).things[0].x == pytest.approx(middle, abs=0.5 / GRID)


def test_what_a_story_draws_is_composed() -> None:
    rng = random.Random(5)
    for example in (story(rng), change(rng), text_to_image(rng)):
        drawn = image_of(example.images[-1])
        compose = at_sides if drawn.tells_sides else in_a_row
        assert compose(drawn.scene) == drawn.scene
        if not drawn.tells_look:
            assert isinstance(drawn.scene.entries[0], Stand)


def test_without_a_place_all_stand_in_the_meadow() -> None:
    examples = [text_to_image(random.Random(seed)) for seed in range(60)]
    untold = [image for each in examples if not (image := image_of(each.images[-1])).tells_place]
    assert untold and {image.scene.setting.place for image in untold} == {"meadow"}

from __future__ import annotations

import random

from model.training.world.storybook.language.seeing.captions import ask, describe
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing

_SETTING = Setting("forest", 0, "night", "snow")


def test_equal_neighbours_are_told_by_number() -> None:
    things = (
        StorybookThing("mouse", "normal", 0.1, 0.9),
        StorybookThing("mouse", "normal", 0.25, 0.9),
        StorybookThing("owl", "big", 0.8, 0.9),
    )
    assert describe(StorybookScene(_SETTING, things)) == (
        "Two mice on the left and a big owl on the right, in the forest at night in the snow."
    )


def test_a_hero_is_described_with_all_traits() -> None:
    hero = Hero("Pip", "elephant", "orange", "striped", "flower")
    assert describe(StorybookScene(_SETTING, (), Stand(hero, 0.5, 0.9))) == (
        "A striped orange elephant with a flower at the ear in the middle, "
        "in the forest at night in the snow."
    )


def test_a_hero_is_described_where_it_stands_among_the_things() -> None:
    things = (
        StorybookThing("cheese", "normal", 0.9, 0.9),
        StorybookThing("owl", "small", 0.1, 0.9),
    )
    hero = Stand(Hero("Pip", "cat", "blue", "plain", "crown"), 0.5, 0.9)
    assert describe(StorybookScene(Setting("meadow", 0, "day"), things, hero)) == (
        "A small owl on the left, a blue cat with a crown in the middle and "
        "some cheese on the right, in the meadow during the day."
    )


def test_of_equal_things_of_two_sizes_each_is_described() -> None:
    things = tuple(
        StorybookThing("tree", size, x, 0.9) for size, x in (("big", 0.1), ("small", 0.9))
    )
    assert describe(StorybookScene(_SETTING, things)).startswith(
        "A big tree on the left and a small tree on the right, "
    )


def test_captions_are_asked_for_in_many_ways() -> None:
    assert len({ask(random.Random(seed)) for seed in range(200)}) > 25

"""Phrases about scenes."""

from __future__ import annotations

from model.training.world.storybook.language import phrases
from model.training.world.storybook.language.captions import describe
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.nouns import NOUNS
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


def test_articles() -> None:
    assert phrases.article("umbrella") == "an umbrella"
    assert phrases.article("unicorn") == "a unicorn"
    assert phrases.article("ufo") == "a ufo"
    assert phrases.article("orange") == "an orange"


def test_no_word_means_two_nouns() -> None:
    words = [*NOUNS, *(word for noun in NOUNS.values() for word in noun.synonyms)]
    assert len(words) == len(set(words))
    assert len(NOUNS) >= 150

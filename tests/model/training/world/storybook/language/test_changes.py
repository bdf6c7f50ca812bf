from __future__ import annotations

import random

from model.training.world.storybook.language.changes import ask
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing

_AFTER = StorybookScene(
    Setting("harbour", 0, "evening", "rain"),
    (StorybookThing("zebra", "normal", 0.2, 0.9),),
    Stand(Hero("Pip", "frog", "blue", "striped", "top hat"), 0.7, 0.9),
)
_TEXTS = [ask(random.Random(seed), _AFTER) for seed in range(300)]


def test_a_wish_is_worded_in_many_ways_without_gaps() -> None:
    assert len(set(_TEXTS)) > 200
    for text in _TEXTS:
        assert not set("[]{}|") & set(text), text
        assert text and "  " not in text


def test_a_wish_names_the_thing_and_the_place() -> None:
    # All but the few with a slip.
    assert sum("zebra" in text for text in _TEXTS) > 0.9 * len(_TEXTS)
    places = (
        "harbour", "sea", "waterfront", "beach", "shore", "coast", "pier", "quay", "lake", "ocean",
        "port", "docks", "river", "water", "island",
    )  # fmt: skip
    assert sum(any(place in text for place in places) for text in _TEXTS) > 0.9 * len(_TEXTS)


def test_a_wish_does_not_tell_the_look_that_an_image_shows() -> None:
    for text in _TEXTS:
        assert not {"blue", "striped", "hat", "pip"} & set(text.lower().split()), text


def test_some_wishes_have_slips() -> None:
    slips = sum(text[0].islower() or "zebra" not in text for text in _TEXTS)
    assert 0 < slips < 0.2 * len(_TEXTS)

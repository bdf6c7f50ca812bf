"""Requests say what a scene holds, in any family of forms."""

from __future__ import annotations

import random
import re

from model.training.world.storybook.language import requests
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing

_SCENE = StorybookScene(
    Setting("harbour", 0, "evening"),
    (StorybookThing("castle", "normal", 0.2, 0.9), StorybookThing("zebra", "normal", 0.8, 0.9)),
)


def test_every_family_names_every_thing() -> None:
    assert not set(requests.TRAINED) & set(requests.HELD_OUT)
    for name, family in {**requests.TRAINED, **requests.HELD_OUT}.items():
        texts = {family(random.Random(seed), _SCENE) for seed in range(40)}
        assert len(texts) > 15, name
        for text in texts:
            assert "castle" in text.lower() and "zebra" in text.lower(), text
            assert not {"[", "]", "{", "}", "|"} & set(text), text


def test_remarks_stand_around_what_is_asked_for() -> None:
    texts = {requests.with_remarks(random.Random(seed), "Draw a zebra") for seed in range(300)}
    assert len(texts) > 150
    for text in texts:
        assert "Draw a zebra" in text and text[0].isupper(), text
        assert not {"[", "]", "{", "}", "|"} & set(text), text
    assert any(text.startswith("Draw") for text in texts)
    assert any(text.endswith("zebra") for text in texts)


def test_sides_are_told_in_any_order() -> None:
    texts = [requests.arranged(random.Random(seed), _SCENE).lower() for seed in range(60)]
    for text in texts:
        castle, left = (re.search(word, text) for word in ("castle", "on the left"))
        zebra, right = (re.search(word, text) for word in ("zebra", "on the right"))
        assert castle and left and zebra and right, text
        assert (castle.start() < zebra.start()) == (left.start() < right.start()), text
    assert 15 < sum(text.index("castle") < text.index("zebra") for text in texts) < 58
    assert any(text.index("on the left") < text.index("castle") for text in texts)

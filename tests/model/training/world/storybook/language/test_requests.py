"""Requests say what a scene holds, in any family of forms."""

from __future__ import annotations

import random
from dataclasses import replace

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
    asked = [requests.request(random.Random(seed), _SCENE, requests.ARRANGED) for seed in range(90)]
    clear = [each for each in asked if "castle" in each.text and "zebra" in each.text]
    for each in clear:
        (castle, left), (zebra, right) = (
            (each.text.index(thing), each.text.lower().find(side))
            for thing, side in (("castle", "on the left"), ("zebra", "on the right"))
        )
        assert each.order == ((0, 1) if castle < zebra else (1, 0)), each.text
        if left >= 0 and right >= 0:
            assert (castle < zebra) == (left < right), each.text
    assert 15 < sum(each.order == (0, 1) for each in clear) < len(clear) - 10
    assert any(
        0 <= each.text.lower().find("on the left") < each.text.index("castle") for each in clear
    )


def test_things_at_one_side_are_told_from_left_to_right() -> None:
    two = (StorybookThing("car", "normal", 0.05, 0.9), StorybookThing("tent", "normal", 0.25, 0.9))
    scene = replace(_SCENE, things=(*two, _SCENE.things[1]))
    orders = {
        requests.request(random.Random(seed), scene, requests.ARRANGED).order for seed in range(60)
    }
    assert orders == {(0, 1, 2), (0, 2, 1), (2, 0, 1)}

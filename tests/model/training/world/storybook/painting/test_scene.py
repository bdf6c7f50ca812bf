"""Scenes are exact and deterministic from a seed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import (
    MAX_THINGS,
    StorybookScene,
    StorybookThing,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]

_EMPTY = Setting("meadow", 0, "day")


def test_the_same_seed_gives_the_same_image() -> None:
    first, second = (StorybookScene.sample(random.Random(7)) for _ in range(2))
    assert first == second
    assert first.render().tobytes() == second.render().tobytes()


def test_sizes_agree_on_what_is_shown() -> None:
    scene = StorybookScene(_EMPTY, (StorybookThing("tree", "big", 0.3, 0.9),))
    small, large = scene.pixels(96), scene.pixels(192)
    halved = large.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(small - halved).mean() < 0.02


def test_a_box_holds_what_its_thing_changes() -> None:
    thing = StorybookThing("balloon", "normal", 0.6, 0.5)
    scene = StorybookScene(_EMPTY, (thing,))
    changed = np.abs(scene.pixels() - StorybookScene(_EMPTY).pixels()).max(-1) > 1e-6
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    x0, y0, x1, y1 = (edge * 192 for edge in scene.boxes()[thing])
    assert abs(columns[0] - x0) <= 2 and abs(columns[-1] + 1 - x1) <= 2
    assert abs(rows[0] - y0) <= 2 and abs(rows[-1] + 1 - y1) <= 2


def test_samples_hold_one_to_four_things_and_no_noun_in_two_groups() -> None:
    rng = random.Random(1)
    for _ in range(200):
        scene = StorybookScene.sample(
            rng, MAX_THINGS, Hero.sample(rng) if rng.random() < 0.5 else None
        )
        nouns = [thing.noun for thing in scene.things]
        assert 0 < len(nouns) <= MAX_THINGS
        assert len({noun for i, noun in enumerate(nouns) if i == 0 or nouns[i - 1] != noun}) == len(
            set(nouns)
        )

"""The reader's accuracy on true scenes, as `mmi world accuracy` measures it."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.command import accuracy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]


def test_true_scenes_are_read_right() -> None:
    scores = accuracy(random.Random(11), 24)
    for name in ("place", "time", "weather"):
        values = scores[f"reader, {name}"]
        assert sum(values) >= len(values) - 1, name
    values = scores["reader, things found"]
    assert sum(values) >= 0.95 * len(values)
    for trait in ("species", "colour", "pattern", "token"):
        values = scores[f"reader, hero's {trait}"]
        assert sum(values) >= 0.85 * len(values), trait

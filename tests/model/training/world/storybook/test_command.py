"""The reader's accuracy on true scenes, as `mmi world accuracy` measures it."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.command import accuracy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]


def test_true_scenes_are_read_right() -> None:
    scores = accuracy(random.Random(11), 24)
    for name in ("place", "time", "weather"):
        right, total = scores[name]
        assert right >= total - 1, name
    right, total = scores["things found"]
    assert right >= 0.95 * total
    for trait in ("species", "colour", "pattern", "token"):
        right, total = scores[f"hero {trait}"]
        assert right >= 0.85 * total, trait

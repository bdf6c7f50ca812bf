"""What words tell as one."""

from __future__ import annotations

import pytest

from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing
from model.training.world.storybook.telling.group import groups, side_of


@pytest.mark.parametrize(
    ("x", "side"),
    [(0.0, "left"), (0.33, "left"), (0.34, "middle"), (0.67, "right"), (1.0, "right")],
)
def test_sides_are_thirds(x: float, side: str) -> None:
    assert side_of(x) == side


def test_equal_neighbours_are_one_group() -> None:
    things = [("cat", "normal"), ("cat", "normal"), ("cat", "big"), ("boat", "normal")]
    scene = StorybookScene(
        Setting("meadow", 0, "day"),
        tuple(StorybookThing(n, s, 0.1 + 0.25 * i, 0.9) for i, (n, s) in enumerate(things)),
    )
    found = [(group.noun, group.number, group.side) for group in groups(scene)]
    assert found == [("cat", 2, "left"), ("cat", 1, "middle"), ("boat", 1, "right")]

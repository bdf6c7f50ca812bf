"""Worlds by name."""

from __future__ import annotations

import pytest

from model.config.schema import ConfigError
from model.training.world.drawn.world import DrawnWorld
from model.training.world.registry import world_of
from model.training.world.storybook.world import StorybookWorld


def test_worlds_are_found_by_name() -> None:
    assert world_of("drawn+emoji") == DrawnWorld("drawn+emoji")
    assert world_of("storybook") == StorybookWorld()


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="storybook"):
        world_of("marble")

"""The worlds by name."""

from __future__ import annotations

from model.config.schema import ConfigError
from model.training.world.drawn.painting.objects import object_sets
from model.training.world.drawn.world import DrawnWorld
from model.training.world.storybook.world import StorybookWorld
from model.training.world.world import World

WORLDS = ("storybook", "drawn", "emoji")


def world_of(name: str) -> World:
    """The world of a name: "storybook", or sets of drawn objects joined by "+".

    Raises:
        ConfigError: there is no world of that name.
    """
    if name == "storybook":
        return StorybookWorld()
    try:
        object_sets(name)
    except ValueError as error:
        raise ConfigError(f"{error}; another world is 'storybook'") from None
    return DrawnWorld(name)

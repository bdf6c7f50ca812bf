"""What words tell as one: equal things that stand next to each other, and at which side."""

from __future__ import annotations

from dataclasses import dataclass

from model.training.world.storybook.painting.scene import (
    Size,
    Stand,
    StorybookScene,
    StorybookThing,
)

SIDES = ("left", "middle", "right")


@dataclass(frozen=True)
class Group:
    """Things of one noun and size that stand next to each other, and where on the whole."""

    things: tuple[StorybookThing, ...]

    @property
    def noun(self) -> str:
        """What they are."""
        return self.things[0].noun

    @property
    def size(self) -> Size:
        """How big they are."""
        return self.things[0].size

    @property
    def number(self) -> int:
        """How many they are."""
        return len(self.things)

    @property
    def x(self) -> float:
        """Their middle, in fractions of the image."""
        return sum(thing.x for thing in self.things) / len(self.things)

    @property
    def side(self) -> str:
        """In which third of the image."""
        return side_of(self.x)


def side_of(x: float) -> str:
    """In which third of the image a position lies."""
    return SIDES[min(int(x * 3), 2)]


def items(scene: StorybookScene) -> list[Group | Stand]:
    """What words tell of a scene from left to right: groups, and the hero."""
    hero = [scene.stand] if scene.stand else []
    return sorted([*groups(scene), *hero], key=lambda item: item.x)


def groups(scene: StorybookScene) -> tuple[Group, ...]:
    """The scene's things from left to right, equal neighbours told by number."""
    found: list[Group] = []
    for thing in sorted(scene.things, key=lambda t: t.x):
        last = found[-1] if found else None
        if last and (last.noun, last.size) == (thing.noun, thing.size):
            found[-1] = Group((*last.things, thing))
        else:
            found.append(Group((thing,)))
    return tuple(found)

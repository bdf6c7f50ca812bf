"""One interface over the sets of objects that a scene can hold."""

from __future__ import annotations

from typing import Protocol

from PIL import Image

from model.training.world.emoji import EmojiPictures
from model.training.world.shapes import DrawnShapes


class ObjectSet(Protocol):
    """Kinds of things, the colours they come in, and their pictures."""

    name: str
    kinds: tuple[str, ...]
    colours: tuple[str | None, ...]

    def available(self) -> bool:
        """Whether its pictures can be had on this machine."""
        ...

    def sprite(self, kind: str, colour: str | None, pixels: int) -> Image.Image:
        """The picture of one thing, RGBA, `pixels` square."""
        ...


OBJECT_SETS: dict[str, ObjectSet] = {"drawn": DrawnShapes(), "emoji": EmojiPictures()}

KIND_TO_SET: dict[str, ObjectSet] = {
    kind: object_set for object_set in OBJECT_SETS.values() for kind in object_set.kinds
}

ALL_KINDS = tuple(KIND_TO_SET)


def object_sets(names: str) -> tuple[ObjectSet, ...]:
    """The sets of a name, or of several names joined by "+".

    Raises:
        ValueError: there is no set of that name.
    """
    if unknown := set(names.split("+")) - OBJECT_SETS.keys():
        known = ", ".join(OBJECT_SETS)
        raise ValueError(f"unknown sets of objects {sorted(unknown)}; known: {known}")
    return tuple(OBJECT_SETS[name] for name in names.split("+"))


def available_sets() -> str:
    """The sets whose pictures can be had on this machine, joined by "+"."""
    return "+".join(name for name, each in OBJECT_SETS.items() if each.available())

"""Heroes differ by colour, texture and ears, not by name."""

from __future__ import annotations

from itertools import product

from model.training.world.drawn.painting.character import EARS, TEXTURES, character_sprite
from model.training.world.drawn.painting.palette import CHARACTER_COLOURS


def test_every_look_has_its_own_sprite() -> None:
    looks = list(product(CHARACTER_COLOURS, TEXTURES, EARS))
    assert len({character_sprite(*look, 36).tobytes() for look in looks}) == len(looks)

from __future__ import annotations

import numpy as np
import pytest

from model.training.world.drawn.painting.palette import COLOURS
from model.training.world.drawn.painting.shapes import DrawnShapes

SHAPES = DrawnShapes()


@pytest.mark.parametrize("kind", SHAPES.kinds)
def test_a_thing_shows_its_colour(kind: str) -> None:
    for name, colour in COLOURS.items():
        pixels = np.asarray(SHAPES.sprite(kind, name, 128)).astype(int)
        is_colour = (np.abs(pixels[..., :3] - colour).max(-1) <= 2) & (pixels[..., 3] == 255)
        assert is_colour.mean() > 0.05, name


def test_kinds_are_told_apart_by_their_outlines() -> None:
    outlines = {SHAPES.sprite(kind, "red", 32).getchannel("A").tobytes() for kind in SHAPES.kinds}
    assert len(outlines) == len(SHAPES.kinds)


@pytest.mark.parametrize("kind", SHAPES.kinds)
def test_things_stand_on_the_ground(kind: str) -> None:
    opaque = np.asarray(SHAPES.sprite(kind, "blue", 128))[..., 3] > 0
    assert np.flatnonzero(opaque.any(1))[-1] >= 120
    assert not opaque[0, 0] and not opaque[0, -1]


def test_a_thing_needs_a_colour() -> None:
    with pytest.raises(ValueError, match="a drawn boat needs a colour"):
        SHAPES.sprite("boat", None, 22)

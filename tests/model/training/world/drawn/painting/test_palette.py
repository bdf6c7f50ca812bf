from __future__ import annotations

import pytest

from model.training.world.drawn.painting.palette import CHARACTER_COLOURS, Rgb, shade


@pytest.mark.parametrize("colour", CHARACTER_COLOURS.values())
def test_shades_go_from_black_over_the_colour_to_white(colour: Rgb) -> None:
    assert shade(colour, 0) == (0, 0, 0)
    assert shade(colour, 1) == colour
    assert shade(colour, 2) == (255, 255, 255)
    shades = [shade(colour, factor / 10) for factor in range(21)]
    for darker, lighter in zip(shades, shades[1:], strict=False):
        assert all(a <= b for a, b in zip(darker, lighter, strict=True)) and darker != lighter


def test_colours_are_told_apart() -> None:
    colours = list(CHARACTER_COLOURS.values())
    for number, one in enumerate(colours):
        for other in colours[:number]:
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 60

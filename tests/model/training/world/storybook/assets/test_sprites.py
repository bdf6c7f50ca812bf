"""On pictures made here, so that no package is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.training.world.storybook.assets.packages import SPRITES
from model.training.world.storybook.assets.sprites import cutout, scaled


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / SPRITES.directory).mkdir()
    return tmp_path


def save(folder: Path, name: str, colour: tuple[int, int, int, int]) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste(colour, (10, 20, 40, 30))
    picture.paste((0, 0, 0, 5), (50, 50, 60, 60))  # What nobody sees does not count.
    picture.save(folder / SPRITES.directory / f"{name}.webp", lossless=True, exact=True)


def test_a_picture_is_cut_to_what_is_opaque(pictures: Path) -> None:
    save(pictures, "1f404", (200, 30, 30, 255))
    cut = cutout("1f404", pictures)
    assert (cut.mode, cut.size) == ("RGBA", (30, 10))
    assert cut.getpixel((0, 0)) == (200, 30, 30, 255)


def test_a_code_with_a_selector_is_found_if_there_is_none_without(pictures: Path) -> None:
    save(pictures, "26f5-fe0f", (0, 200, 0, 255))
    assert cutout("26f5", pictures).getpixel((0, 0)) == (0, 200, 0, 255)
    save(pictures, "2708-fe0f", (0, 200, 0, 255))
    save(pictures, "2708", (0, 0, 200, 255))
    assert cutout("2708", pictures).getpixel((0, 0)) == (0, 0, 200, 255)
    with pytest.raises(FileNotFoundError):
        cutout("1f405", pictures)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 20), (10, 5)), ((20, 40), (5, 10)), ((400, 1), (10, 1)), ((4, 4), (10, 10))],
)
def test_the_longer_side_is_scaled(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled(Image.new("RGBA", size), 10).size == expected


def test_colours_of_transparent_pixels_do_not_bleed() -> None:
    picture = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 20, 40))
    pixels = np.asarray(scaled(picture, 10))
    seen = pixels[pixels[..., 3] > 30]
    assert len(seen) >= 50 and (seen[:, 0] > 240).all() and (seen[:, 1] < 15).all()

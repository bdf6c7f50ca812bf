"""On panoramas made here, so that no package is needed."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.world.storybook.assets.packages import PANORAMAS, AssetError
from model.training.world.storybook.assets.panoramas import (
    developed,
    panorama,
    to_image,
    view,
)

Array = NDArray[np.float32]
HEIGHT, WIDTH = 32, 64


def directions() -> Array:
    """A panorama whose red grows to the right and green upward."""
    red, green = np.meshgrid(np.arange(WIDTH) / WIDTH, 1 - np.arange(HEIGHT) / HEIGHT)
    return np.stack((red, green, np.zeros_like(red)), -1).astype(np.float32)


def middle(pixels: Array) -> Array:
    side = len(pixels) // 2
    return pixels[side - 1 : side + 1, side - 1 : side + 1].mean((0, 1))


@pytest.mark.parametrize(
    ("yaw", "pitch"), [(0, 0), (90, 0), (-90, 0), (45, 30), (0, -45), (-100, 20)]
)
def test_a_view_looks_where_it_is_turned(yaw: float, pitch: float) -> None:
    red, green, _ = middle(view(directions(), yaw, pitch, 40, 8))
    assert red == pytest.approx(0.5 + yaw / 360, abs=0.02)
    assert green == pytest.approx(0.5 + pitch / 180, abs=0.03)


def test_right_is_right_and_up_is_up() -> None:
    seen = view(directions(), 0, 0, 60, 8)
    assert (np.diff(seen[4, :, 0]) > 0).all()
    assert (np.diff(seen[:, 4, 1]) < 0).all()


def test_a_wider_view_sees_more() -> None:
    narrow, wide = (view(directions(), 0, 0, angle, 8)[4, :, 0] for angle in (30, 90))
    assert np.ptp(wide) == pytest.approx(0.25, abs=0.05)
    assert np.ptp(narrow) < 0.4 * np.ptp(wide)


def test_a_view_across_the_seam_is_whole() -> None:
    even = np.full((HEIGHT, WIDTH, 3), 0.7, np.float32)
    for yaw, pitch in ((180, 0), (-180, 80), (179, -80)):
        assert view(even, yaw, pitch, 90, 4) == pytest.approx(np.full((4, 4, 3), 0.7), abs=1e-5)


def test_light_is_developed_to_displays_without_loss_of_order() -> None:
    light = np.linspace(0, 6, 100, dtype=np.float32)
    shown = developed(light)
    assert shown[0] == 0 and (np.diff(shown) > 0).all() and 0.99 < shown[-1] <= 1
    assert developed(np.float32(1000)) == pytest.approx(1)
    assert (developed(light[1:-1], 2.0) > shown[1:-1]).all()
    # Middle grey of the ground is in the middle of the display's range.
    assert 0.4 < developed(np.float32(1)) < 0.7


def test_display_values_are_rounded_and_cut() -> None:
    image = to_image(np.array([[[-0.5, 0.5, 1.5]]], np.float32))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (0, 128, 255))


def save(folder: Path, name: str, radiance: Array) -> None:
    openexr = pytest.importorskip("OpenEXR")
    directory = folder / PANORAMAS.directory
    directory.mkdir(exist_ok=True)
    file = folder / f"{name}.exr"
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"RGB": radiance.copy()}) as image:
        image.write(str(file))
    data = base64.b64encode(file.read_bytes()).decode()
    (directory / f"{name}.exr.js").write_text(f'export default "data:image/exr;base64,{data}"')


def test_a_panorama_is_exposed_by_its_ground(tmp_path: Path) -> None:
    radiance = np.full((HEIGHT, WIDTH, 3), 20.0, np.float32)
    radiance[HEIGHT // 2 :] = 4.0
    save(tmp_path, "bright", radiance)
    made = panorama("bright", tmp_path)
    assert made[-1] == pytest.approx(np.ones((WIDTH, 3)), abs=1e-4)
    assert made[0] == pytest.approx(np.full((WIDTH, 3), 5.0), abs=1e-4)


def test_lamps_are_white_and_specks_around_them_are_filled(tmp_path: Path) -> None:
    radiance = np.ones((HEIGHT, WIDTH, 3), np.float32)
    radiance[4:9, 10:15] = (900.0, 10.0, 10.0)  # The sun, overflowed in one channel.
    radiance[6, 12] = -3.0  # A speck that the compression left.
    radiance[25, 50] = 0.1  # A dark thing far from any lamp.
    save(tmp_path, "lamp", radiance)
    made = panorama("lamp", tmp_path)
    assert (made[4:9, 10:15] == made.max()).all() and made.max() == 6
    assert made[25, 50] == pytest.approx([0.1] * 3, abs=1e-4)
    assert made.min() > 0


def test_a_module_without_data_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    (tmp_path / PANORAMAS.directory).mkdir()
    (tmp_path / PANORAMAS.directory / "none.exr.js").write_text("export default 3")
    with pytest.raises(AssetError, match=r"none\.exr\.js holds no base64 data"):
        panorama("none", tmp_path)

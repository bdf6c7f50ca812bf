"""Photographic panoramas: loading, cleaning the highlights, and perspective views of them.

Legend: H, W panorama; h, w view; C = 3 colours, linear light.
"""

from __future__ import annotations

import base64
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.storybook.assets import packages

_Array = NDArray[np.float32]

_LUMINANCE_C = np.array([0.2126, 0.7152, 0.0722], np.float32)
# Radiance above this multiple of the median of the lower half counts as blown out.
_WHITE_POINT = 6.0
_SUPERSAMPLING = 2


@cache
def panorama(name: str, folder: Path = packages.DEFAULT_FOLDER) -> _Array:
    """Radiance [H, W, C] of an equirectangular panorama, 1 where the ground is of middle grey.

    Lamps and the sun are clipped to the white point. Around them the package's lossy compression
    left dark specks; a morphological closing fills these.
    """
    source = folder / packages.PANORAMAS.directory / f"{name}.exr.js"
    radiance_HWC = np.maximum(_read_exr(source), 0)
    luminance_HW = radiance_HWC @ _LUMINANCE_C
    height = len(luminance_HW)
    middle = float(np.median(luminance_HW[height // 2 : height * 7 // 8]))
    radiance_HWC /= middle
    luminance_HW /= middle
    # The sun of two panoramas overflowed in single channels, so all channels become white.
    radiance_HWC[luminance_HW > 2 * _WHITE_POINT] = _WHITE_POINT
    near_lamps_HW = _largest_around(luminance_HW, 3) > 4 * _WHITE_POINT
    clipped_HWC = np.minimum(radiance_HWC, _WHITE_POINT)
    return np.where(near_lamps_HW[..., None], _closed(clipped_HWC, 2), clipped_HWC)


def _read_exr(source: Path) -> _Array:
    """Decode the OpenEXR file that a JavaScript module of the package holds as base64."""
    import OpenEXR  # An extra of its own: only this world needs it.

    match = re.search(r"base64,([A-Za-z0-9+/=]+)", source.read_text())
    if match is None:
        raise packages.AssetError(f"{source} holds no base64 data")
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(base64.b64decode(match[1]))
        file.flush()
        with OpenEXR.File(file.name) as image:
            return np.asarray(image.channels()["RGB"].pixels, dtype=np.float32)


def _largest_around(image: _Array, radius: int) -> _Array:
    """The maximum over a square of `radius` around each pixel; both axes wrap around."""
    offsets = range(-radius, radius + 1)
    rows = np.max([np.roll(image, dy, 0) for dy in offsets], axis=0)
    return np.max([np.roll(rows, dx, 1) for dx in offsets], axis=0)


def _closed(image: _Array, radius: int) -> _Array:
    """Morphological closing: dark specks narrower than 2 `radius` are filled."""
    return -_largest_around(-_largest_around(image, radius), radius)


def view(panorama_HWC: _Array, yaw: float, pitch: float, field_of_view: float, size: int) -> _Array:
    """A square perspective view [size, size, C] of a panorama.

    Args:
        panorama_HWC: equirectangular radiance.
        yaw: degrees to the right of the panorama's centre.
        pitch: degrees upward.
        field_of_view: degrees, horizontal and vertical alike.
        size: pixels.
    """
    side = size * _SUPERSAMPLING
    half = np.tan(np.radians(field_of_view) / 2)
    ticks = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    right, down = np.meshgrid(ticks * half, ticks * half)
    tilt = np.radians(pitch)
    forward = np.cos(tilt) + down * np.sin(tilt)
    up = np.sin(tilt) - down * np.cos(tilt)
    longitude = np.radians(yaw) + np.arctan2(right, forward)
    latitude = np.arctan2(up, np.hypot(right, forward))
    height, width = panorama_HWC.shape[:2]
    x = (longitude / (2 * np.pi) + 0.5) * width - 0.5
    y = (0.5 - latitude / np.pi) * height - 0.5
    sampled = _bicubic(panorama_HWC, x, y)
    return sampled.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean((1, 3))


def _bicubic(image_HWC: _Array, x: _Array, y: _Array) -> _Array:
    """Catmull-Rom samples at fractional positions; columns wrap, rows repeat at the edge."""
    height, width = image_HWC.shape[:2]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((*x.shape, 3), np.float32)
    for dy in range(-1, 3):
        wy = _catmull_rom(np.abs(y - (y0 + dy)))
        rows = np.clip(y0 + dy, 0, height - 1)
        for dx in range(-1, 3):
            weight = wy * _catmull_rom(np.abs(x - (x0 + dx)))
            total += weight[..., None] * image_HWC[rows, (x0 + dx) % width]
    return np.maximum(total, 0)


def _catmull_rom(t: _Array) -> _Array:
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0)).astype(np.float32)


def developed(radiance: _Array, exposure: float = 1.0) -> _Array:
    """Linear light to display values in [0, 1]: extended Reinhard, then the sRGB curve.

    Source: Reinhard et al. 2002, "Photographic tone reproduction for digital images", equation 4.
    """
    scaled = radiance * (0.42 * exposure)
    white = _WHITE_POINT * 0.42
    mapped = scaled * (1 + scaled / white**2) / (1 + scaled)
    mapped = np.clip(mapped, 0, 1)
    curve = np.where(mapped < 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)
    return curve.astype(np.float32)


def to_image(pixels: _Array) -> Image.Image:
    """Display values in [0, 1] as an RGB image."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))

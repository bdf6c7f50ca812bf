"""Paints `lake.png`, the picture of the demo request: an evening at a mountain lake.

Everything is computed from one seed: `python deploy/demo/lake.py` writes the same picture again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT, HORIZON = 384, 288, 168


def noise(rng: np.random.Generator, width: int, height: int, octaves: int = 6) -> np.ndarray:
    """Fractal noise in [0, 1], [height, width]."""
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        cells = 2 ** (octave + 1)
        grid = rng.random((cells + 1, cells * 2 + 1)).astype(np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
        weight += 1 / 2**octave
    return np.clip(total / weight, 0, 1)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """From a to b."""
    return a + (b - a) * np.asarray(share)[..., None]


def ridge(rng: np.random.Generator, height: float, roughness: float) -> np.ndarray:
    """The skyline of a range of mountains: rows above the horizon, [width]."""
    line = np.zeros(WIDTH)
    for octave in range(8):
        points = rng.normal(size=2 ** (octave + 1) + 2)
        places = np.linspace(0, len(points) - 1, WIDTH)
        line += np.interp(places, np.arange(len(points)), points) * roughness**octave
    line = (line - line.min()) / np.ptp(line)
    return height * (0.25 + 0.75 * line)


def paint(seed: int = 11) -> Image.Image:
    """The picture."""
    rng = np.random.default_rng(seed)
    color = lambda *rgb: np.array(rgb, dtype=float)  # noqa: E731
    y, x = np.mgrid[0:HORIZON, 0:WIDTH].astype(float)
    sky = mix(color(38, 52, 104), color(248, 160, 96), (y / HORIZON) ** 1.5)
    sun_x, sun_y = WIDTH * 0.68, HORIZON * 0.66
    distance = np.hypot(x - sun_x, y - sun_y)
    sky = mix(sky, color(255, 214, 150), np.exp(-distance / 60) * 0.8)
    sky = mix(sky, color(255, 246, 220), np.clip(13 - distance, 0, 1))
    clouds = np.clip((noise(rng, WIDTH, HORIZON) - 0.5) * 4, 0, 1) * (1 - y / HORIZON) ** 0.5
    lit = mix(color(120, 92, 130), color(255, 188, 140), np.exp(-distance / 130))
    sky = sky + (lit - sky) * (clouds * 0.75)[..., None]
    layers = ((74, 0.55, (126, 104, 140)), (52, 0.5, (84, 70, 108)), (30, 0.62, (42, 40, 62)))
    for height, roughness, rgb in layers:
        top = HORIZON - ridge(rng, height, roughness)
        inside = np.clip(y - top[None, :], 0, 1)
        shade = 0.85 + 0.3 * noise(rng, WIDTH, HORIZON)
        haze = np.clip((y - HORIZON + 26) / 40, 0, 1) * 0.5
        body = mix(color(*rgb) * shade[..., None], color(232, 160, 122), haze)
        sky = sky + (body - sky) * inside[..., None]
    rows = np.arange(HEIGHT - HORIZON)
    source = np.clip(HORIZON - 1 - rows * 1.35, 0, HORIZON - 1).astype(int)
    ripples = noise(rng, WIDTH, HEIGHT - HORIZON, 7) - 0.5
    shift = (ripples * (2 + rows[:, None] * 0.22) * 3).astype(int)
    columns = np.clip(np.arange(WIDTH)[None, :] + shift, 0, WIDTH - 1)
    water = sky[source[:, None], columns] * 0.78 + color(8, 16, 34) * 0.22
    waves = np.sin(rows[:, None] ** 0.8 * 2.4 + ripples * 26) * (0.03 + rows[:, None] / 1400)
    water = water * (1 + waves[..., None])
    picture = np.concatenate([sky, water])
    picture = picture + rng.normal(scale=3.0, size=picture.shape)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.5))


if __name__ == "__main__":
    paint().save(Path(__file__).with_name("lake.png"), optimize=True)

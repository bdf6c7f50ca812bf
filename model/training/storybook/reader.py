"""Reads an image back by synthesis: of all that could stand there, what looks most like it?

First the empty setting is found, then sprites are painted on it one at a time, always the one at
the place that brings the painting nearest to the image, until none brings it nearer.

Legend: S side in pixels; N templates; 3 colours; F = 8 filters of a template; K = Fourier terms.

With backdrop B, image I = B + R and a lit sprite of opacity a and colours T, painting takes
sum(2 R a (T - B) - a^2 (T - B)^2) off the squared error. Multiplied out this is a sum of eight
correlations of fields of the image with filters of the sprite, so all places are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.training.storybook.assets.sprites import sprite
from model.training.storybook.hero import (
    COLOURS,
    PATTERNS,
    SPECIES,
    TOKENS,
    Hero,
    Pattern,
    hero_sprite,
)
from model.training.storybook.hero import HEIGHT as HERO_HEIGHT
from model.training.storybook.nouns import NOUNS
from model.training.storybook.places import Setting, all_settings, backdrop, precipitation
from model.training.storybook.scene import (
    BASE_SIZE,
    SIZES,
    Scene,
    Size,
    Stand,
    Thing,
    hero_layer,
    paste,
    shade,
    thing_layer,
)

Array = NDArray[np.float32]

_SEARCH = 64  # Side at which places are searched.
_BANK = 32  # Side at which settings are compared.
_MAX_ITEMS = 5
# A sprite must take this much off the squared error, per opaque pixel and over all colours ...
_LEAST_GAIN = 0.012
# ... and this fraction of the error that it covers.
_LEAST_SHARE = 0.35
_NAMELESS = "hero"


@dataclass(frozen=True)
class Template:
    """A thing, or a hero without a token."""

    noun: str | None
    size: Size
    species: str = ""
    colour: str = ""
    pattern: str = "plain"

    def pixels(self, side: int) -> Array:
        """Its sprite [h, w, 4] in an image of `side` pixels."""
        if self.noun is None:
            height = round(HERO_HEIGHT * side)
            return hero_sprite(self.species, self.colour, self.pattern, None, height).pixels_hw4
        return sprite(NOUNS[self.noun].code, round(Thing(self.noun, self.size, 0, 0).height * side))


@dataclass(frozen=True)
class Bank:
    """All templates with the Fourier transforms of their filters."""

    templates: tuple[Template, ...]
    filters_NFK: Tensor
    squares_N3: Tensor
    areas_N: Tensor
    shapes_N2: Tensor


def read_scene(image: Image.Image) -> Scene:
    """The scene that an image most looks like."""
    wanted = _pixels(image, _SEARCH)
    setting = read_setting(image)
    canvas, light = _empty(setting, _SEARCH), np.array(setting.light, np.float32)
    scene = Scene(setting)
    for _ in range(_MAX_ITEMS):
        best = _best(canvas, wanted, setting)
        if best is None:
            break
        template, left, top = best
        height, width = template.pixels(_SEARCH).shape[:2]
        x, y = (left + width / 2) / _SEARCH, (top + height) / _SEARCH
        if template.noun is not None:
            thing = Thing(template.noun, template.size, x, y)
            scene = replace(scene, things=(*scene.things, thing))
            layer = thing_layer(thing, _SEARCH)
        else:
            # The whole look at once, so that its token is not taken for another thing.
            stand = _read_hero(_pixels(image, BASE_SIZE), scene, template.colour, x, y)
            scene = replace(scene, stand=scene.stand or stand)
            layer = hero_layer(stand, _SEARCH)
        if layer.grounded:
            shade(canvas, layer)
        paste(canvas, layer, light)
    return replace(scene, things=tuple(sorted(scene.things, key=lambda thing: thing.x)))


def read_setting(image: Image.Image) -> Setting:
    """The setting whose empty image is nearest, where things hide little of it."""
    settings, empties = _settings()
    distance = np.abs(empties - _pixels(image, _BANK)).mean(-1)
    # What things cover is far off whatever the setting: it must not count more than the rest.
    return settings[int(np.minimum(distance, 0.12).mean((1, 2)).argmin())]


@cache
def _settings() -> tuple[tuple[Setting, ...], Array]:
    """All settings and their empty images [N, S, S, 3]."""
    settings = all_settings()
    return settings, np.stack([_shrunk(_empty(setting, 3 * _BANK), _BANK) for setting in settings])


def _empty(setting: Setting, side: int) -> Array:
    """An empty setting, with what falls in front of it."""
    canvas = backdrop(setting, side)
    falling = precipitation(setting, side)
    if falling is None:
        return canvas.copy()
    colour, coverage = falling
    return canvas * (1 - coverage) + colour * coverage


def _shrunk(pixels: Array, side: int) -> Array:
    factor = len(pixels) // side
    pooled: Array = pixels.reshape(side, factor, side, factor, 3).mean((1, 3))
    return pooled


def _pixels(image: Image.Image, side: int) -> Array:
    """An image's display values at a side of `side` pixels."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


@cache
def _bank() -> Bank:
    """All things in all sizes, and all heroes as far as they are told apart from afar."""
    templates = [Template(noun, size) for noun in NOUNS for size in SIZES]
    templates += [Template(None, "normal", *look) for look in product(SPECIES, COLOURS, PATTERNS)]
    filters, squares, areas, shapes = [], [], [], []
    for template in templates:
        pixels = template.pixels(_SEARCH)
        plane = np.zeros((_SEARCH, _SEARCH, 4), np.float32)
        height, width = (min(length, _SEARCH) for length in pixels.shape[:2])
        plane[:height, :width] = pixels[:height, :width]
        colours, opacity = plane[..., :3], plane[..., 3:]
        stacked = np.concatenate(
            (opacity * colours, opacity, opacity**2 * colours, opacity**2), axis=-1
        )
        filters.append(
            torch.fft.rfft2(torch.from_numpy(stacked).permute(2, 0, 1)).conj().flatten(1)
        )
        squares.append(np.square(opacity * colours).sum((0, 1)))
        areas.append(np.square(opacity).sum())
        shapes.append((height, width))
    return Bank(
        tuple(templates),
        torch.stack(filters),
        torch.from_numpy(np.stack(squares)),
        torch.tensor(np.array(areas)),
        torch.tensor(shapes),
    )


def _best(canvas: Array, wanted: Array, setting: Setting) -> tuple[Template, int, int] | None:
    """The template and corner (left, top) that takes most off the squared error, or None."""
    bank = _bank()
    light = np.array(setting.light, np.float32)
    rest = wanted - canvas
    fields = np.concatenate(
        (
            2 * light * rest,
            -2 * (rest * canvas).sum(-1, keepdims=True),
            2 * light * canvas,
            -np.square(canvas).sum(-1, keepdims=True),
        ),
        axis=-1,
    )
    fields_FK = torch.fft.rfft2(torch.from_numpy(fields).permute(2, 0, 1)).flatten(1)
    spectrum_NK = torch.einsum("nfk,fk->nk", bank.filters_NFK, fields_FK)
    gain_NSS = torch.fft.irfft2(
        spectrum_NK.unflatten(1, (_SEARCH, _SEARCH // 2 + 1)), s=(_SEARCH, _SEARCH)
    )
    gain_NSS -= (bank.squares_N3 @ torch.from_numpy(light**2))[:, None, None]
    places = torch.arange(_SEARCH)
    outside_NS = places[None] + bank.shapes_N2[:, :1] > _SEARCH
    gain_NSS.masked_fill_(outside_NS[:, :, None], -1)
    outside_NS = places[None] + bank.shapes_N2[:, 1:] > _SEARCH
    gain_NSS.masked_fill_(outside_NS[:, None, :], -1)
    flat = int(gain_NSS.argmax())
    number, place = divmod(flat, _SEARCH * _SEARCH)
    top, left = divmod(place, _SEARCH)
    gain = float(gain_NSS.flatten()[flat])
    template = bank.templates[number]
    height, width = template.pixels(_SEARCH).shape[:2]
    covered = np.square(rest[top : top + height, left : left + width]).sum(-1)
    opacity = template.pixels(_SEARCH)[..., 3]
    error = float((covered * opacity[: covered.shape[0], : covered.shape[1]]).sum())
    if gain < _LEAST_GAIN * float(bank.areas_N[number]) or gain < _LEAST_SHARE * error:
        return None
    return template, left, top


def _read_hero(pixels: Array, rest: Scene, colour: str, x: float, y: float) -> Stand:
    """The hero whose sprite at about this place is nearest: look after look, then once more."""
    light = np.array(rest.setting.light, np.float32)
    left, right = (round(BASE_SIZE * min(max(x + part, 0), 1)) for part in (-0.32, 0.32))
    top, bottom = (round(BASE_SIZE * min(max(y + part, 0), 1)) for part in (-0.56, 0.08))
    around, wanted = rest.pixels(BASE_SIZE)[top:bottom, left:right], pixels[top:bottom, left:right]

    def error(stand: Stand) -> float:
        layer = hero_layer(stand, BASE_SIZE)
        canvas = around.copy()
        moved = replace(layer, left=layer.left - left, top=layer.top - top)
        paste(canvas, moved, light)
        return float(np.square(canvas - wanted).sum())

    def look(species: str, colour: str, pattern: Pattern, token: str) -> Stand:
        return Stand(Hero(_NAMELESS, species, colour, pattern, token), x, y)

    token = next(iter(TOKENS))
    best = min((look(s, colour, p, token) for s, p in product(SPECIES, PATTERNS)), key=error)
    species = best.hero.species
    moves = product((-0.016, -0.008, 0.0, 0.008, 0.016), repeat=2)
    best = min((replace(best, x=x + dx, y=y + dy) for dx, dy in moves), key=error)
    x, y = best.x, best.y
    best = min((look(species, c, p, token) for c, p in product(COLOURS, PATTERNS)), key=error)
    colour, pattern = best.hero.colour, best.hero.pattern
    token = min((look(species, colour, pattern, t) for t in TOKENS), key=error).hero.token
    return min((look(species, c, p, token) for c, p in product(COLOURS, PATTERNS)), key=error)

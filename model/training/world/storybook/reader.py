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

from model.training.world.storybook.assets.sprites import sprite
from model.training.world.storybook.painting.hero import (
    COLOURS,
    PATTERNS,
    SPECIES,
    TOKENS,
    UNTOLD,
    Hero,
    Pattern,
    hero_sprite,
)
from model.training.world.storybook.painting.hero import HEIGHT as HERO_HEIGHT
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import (
    Setting,
    all_settings,
    backdrop,
    precipitation,
)
from model.training.world.storybook.painting.scene import (
    BASE_SIZE,
    SIZES,
    Layer,
    Size,
    Stand,
    StorybookScene,
    StorybookThing,
    clip,
    hero_layer,
    paste,
    shade,
    thing_layer,
)

_Array = NDArray[np.float32]

_SEARCH = 64  # Side at which places are searched.
_BANK = 32  # Side at which settings are compared.
_MAX_ITEMS = 6
_NUM_CANDIDATES = 8  # Compared exactly, at full size, before one of them is painted.
_STEPS = (-0.0156, -0.0104, -0.0052, 0.0, 0.0052, 0.0104, 0.0156)
# A sprite must take this much off the squared error, per opaque pixel and over all colours ...
_LEAST_GAIN = 0.012
# ... and this fraction of the error that it covers.
_LEAST_SHARE = 0.35
_NAMELESS = "hero"
# A hero may have an animal's own colours, or no token; with neither it is a thing.
_COATS = tuple(product((*COLOURS, UNTOLD), PATTERNS))
_LOOKS = tuple(
    look for look in product(_COATS, (*TOKENS, UNTOLD)) if look != ((UNTOLD, PATTERNS[0]), UNTOLD)
)


@dataclass(frozen=True)
class Template:
    """A thing, or a hero without a token."""

    noun: str | None
    size: Size
    species: str = ""
    colour: str = ""
    pattern: Pattern = "plain"

    def pixels(self, side: int) -> _Array:
        """Its sprite [h, w, 4] in an image of `side` pixels."""
        if self.noun is None:
            height = round(HERO_HEIGHT * side)
            return hero_sprite(self.species, self.colour, self.pattern, UNTOLD, height).pixels_hw4
        return sprite(
            NOUNS[self.noun].code, round(StorybookThing(self.noun, self.size, 0, 0).height * side)
        )


@dataclass(frozen=True)
class Bank:
    """All templates with the Fourier transforms of their filters."""

    templates: tuple[Template, ...]
    filters_NFK: Tensor
    squares_N3: Tensor
    shapes_N2: Tensor


def read_scene(image: Image.Image) -> StorybookScene:
    """The scene that an image most looks like."""
    wanted, setting = _pixels(image, BASE_SIZE), read_setting(image)
    canvas, light = _empty(setting, BASE_SIZE), np.array(setting.light, np.float32)
    scene = StorybookScene(setting)
    for _ in range(_MAX_ITEMS):
        entries = [
            found
            for template, x, y in _candidates(canvas, wanted, setting)
            if (found := _refined(canvas, wanted, light, template, x, y, scene.stand is None))
        ]
        if not entries:
            break
        best = max(entries, key=lambda entry: _gain(canvas, wanted, _layer(entry), light))
        layer = _layer(best)
        if not _is_worth(canvas, wanted, layer, light):
            break
        if layer.grounded:
            shade(canvas, layer)
        paste(canvas, layer, light)
        if isinstance(best, Stand):
            scene = replace(scene, stand=best)
        else:
            scene = replace(scene, things=(*scene.things, best))
    return replace(scene, things=tuple(sorted(scene.things, key=lambda thing: thing.x)))


def read_setting(image: Image.Image) -> Setting:
    """The setting whose empty image is nearest, where things hide little of it."""
    settings, empties = _settings()
    distance = np.abs(empties - _pixels(image, _BANK)).mean(-1)
    # What things cover is far off whatever the setting: it must not count more than the rest.
    return settings[int(np.minimum(distance, 0.12).mean((1, 2)).argmin())]


@cache
def _settings() -> tuple[tuple[Setting, ...], _Array]:
    """All settings and their empty images [N, S, S, 3]."""
    settings = all_settings()
    return settings, np.stack([_shrunk(_empty(setting, 3 * _BANK), _BANK) for setting in settings])


def _empty(setting: Setting, side: int) -> _Array:
    """An empty setting, with what falls in front of it."""
    canvas = backdrop(setting, side)
    falling = precipitation(setting, side)
    if falling is None:
        return canvas.copy()
    colour, coverage = falling
    return canvas * (1 - coverage) + colour * coverage


def _shrunk(pixels: _Array, side: int) -> _Array:
    factor = len(pixels) // side
    return pixels.reshape(side, factor, side, factor, 3).mean((1, 3))


def _pixels(image: Image.Image, side: int) -> _Array:
    """An image's display values at a side of `side` pixels."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


@cache
def _bank() -> Bank:
    """All things in all sizes, and all heroes as far as they are told apart from afar."""
    templates = [Template(noun, size) for noun in NOUNS for size in SIZES]
    coats = product(SPECIES, _COATS)
    templates += [Template(None, "normal", species, *coat) for species, coat in coats]
    filters, squares, shapes = [], [], []
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
        shapes.append((height, width))
    return Bank(
        tuple(templates),
        torch.stack(filters),
        torch.from_numpy(np.stack(squares)),
        torch.tensor(shapes),
    )


def _candidates(
    canvas: _Array, wanted: _Array, setting: Setting
) -> list[tuple[Template, float, float]]:
    """The templates that take most off the squared error, each with its middle and lower edge."""
    bank = _bank()
    light = np.array(setting.light, np.float32)
    small = _shrunk(canvas, _SEARCH)
    rest = _shrunk(wanted, _SEARCH) - small
    fields = np.concatenate(
        (
            2 * light * rest,
            -2 * (rest * small).sum(-1, keepdims=True),
            2 * light * small,
            -np.square(small).sum(-1, keepdims=True),
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
    best_N, place_N = gain_NSS.flatten(1).max(1)
    found = []
    for number in best_N.topk(_NUM_CANDIDATES).indices.tolist():
        top, left = divmod(int(place_N[number]), _SEARCH)
        height, width = bank.shapes_N2[number].tolist()
        x, y = (left + width / 2) / _SEARCH, (top + height) / _SEARCH
        found.append((bank.templates[number], x, y))
    return found


def _refined(
    canvas: _Array,
    wanted: _Array,
    light: _Array,
    template: Template,
    x: float,
    y: float,
    heroes: bool,
) -> StorybookThing | Stand | None:
    """The candidate at the best place nearby; a hero with its whole look, None if not wanted."""
    if template.noun is None:
        return _read_hero(canvas, wanted, light, template, x, y) if heroes else None
    moves = product(_STEPS, _STEPS)
    things = (StorybookThing(template.noun, template.size, x + dx, y + dy) for dx, dy in moves)
    return max(things, key=lambda thing: _gain(canvas, wanted, _layer(thing), light))


def _layer(entry: StorybookThing | Stand) -> Layer:
    if isinstance(entry, StorybookThing):
        return thing_layer(entry, BASE_SIZE)
    return hero_layer(entry, BASE_SIZE)


def _gain(canvas: _Array, wanted: _Array, layer: Layer, light: _Array) -> float:
    """What painting a layer takes off the squared error."""
    rows, columns, _ = clip(layer, canvas)
    before = canvas[rows, columns]
    after = before.copy()
    paste(after, replace(layer, left=layer.left - columns.start, top=layer.top - rows.start), light)
    goal = wanted[rows, columns]
    return float(np.square(before - goal).sum() - np.square(after - goal).sum())


def _is_worth(canvas: _Array, wanted: _Array, layer: Layer, light: _Array) -> bool:
    """Whether painting a layer explains enough of what it covers."""
    rows, columns, part = clip(layer, canvas)
    opacity = part[..., 3]
    error = float((np.square(canvas - wanted)[rows, columns].sum(-1) * opacity).sum())
    least = _LEAST_GAIN * float(np.square(light).mean()) * float(opacity.sum())
    return _gain(canvas, wanted, layer, light) > max(least, _LEAST_SHARE * error)


def _read_hero(
    canvas: _Array, wanted: _Array, light: _Array, template: Template, x: float, y: float
) -> Stand:
    """The hero whose sprite at about this place is nearest: look after look, then once more."""

    def look(species: str, coat: tuple[str, Pattern], token: str) -> Stand:
        return Stand(Hero(_NAMELESS, species, *coat, token), x, y)

    def gain(stand: Stand) -> float:
        return _gain(canvas, wanted, _layer(stand), light)

    species, coat = template.species, (template.colour, template.pattern)
    moves = product(_STEPS, _STEPS)
    best = look(species, coat, next(iter(TOKENS)))
    best = max((replace(best, x=x + dx, y=y + dy) for dx, dy in moves), key=gain)
    x, y = best.x, best.y
    best = max((look(species, c, t) for c, t in _LOOKS if c == coat), key=gain)
    best = max((look(species, c, t) for c, t in _LOOKS if t == best.hero.token), key=gain)
    coat = best.hero.colour, best.hero.pattern
    best = max((look(s, coat, best.hero.token) for s in SPECIES), key=gain)
    return max((look(best.hero.species, c, t) for c, t in _LOOKS if c == coat), key=gain)

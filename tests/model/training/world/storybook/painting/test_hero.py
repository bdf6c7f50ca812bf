from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from PIL import Image

from model.training.world.storybook.painting import hero as painting
from model.training.world.storybook.painting.hero import (
    COLOURS,
    NAMES,
    PATTERNS,
    SPECIES,
    TOKENS,
    UNTOLD,
    Hero,
    hero_sprite,
    scaled_to_width,
)
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene

_EMPTY = Setting("meadow", 0, "day")
needs_pictures = pytest.mark.usefixtures("storybook_packages")


def body() -> Image.Image:
    """A grey body with a black eye, and an empty corner."""
    picture = Image.new("RGBA", (120, 90), (180, 180, 180, 255))
    picture.paste((10, 10, 10, 255), (50, 30, 70, 50))
    picture.paste((255, 0, 0, 0), (0, 0, 20, 20))
    return picture


def test_heroes_are_sampled_from_all_looks() -> None:
    heroes = [Hero.sample(random.Random(seed)) for seed in range(400)]
    assert {one.name for one in heroes} == set(NAMES)
    assert {one.species for one in heroes} == set(SPECIES)
    assert {(one.colour, one.pattern) for one in heroes} == set(product(COLOURS, PATTERNS))
    assert {one.token for one in heroes} == set(TOKENS)


def test_a_part_of_a_look_is_never_nothing_and_never_all() -> None:
    hero, parts = Hero("Pip", "cat", "blue", "plain", "crown"), set()
    for seed in range(200):
        partly = hero.partly(random.Random(seed))
        assert (partly.name, partly.species) == ("Pip", "cat")
        assert partly.colour in ("blue", UNTOLD) and partly.token in ("crown", UNTOLD)
        parts.add((partly.colour != UNTOLD, partly.pattern != "plain", partly.token != UNTOLD))
    assert parts == set(product((True, False), repeat=3)) - {(True,) * 3, (False,) * 3}


def test_a_body_in_its_own_colours_is_darker_where_the_pattern_is() -> None:
    before = np.asarray(body()).astype(int)
    assert (np.asarray(painting._marked(body(), "plain")) == before).all()
    striped = np.asarray(painting._marked(body(), "striped")).astype(int)
    assert (striped[..., 3] == before[..., 3]).all() and (striped <= before).all()
    assert 0.1 < (striped[..., 0] < before[..., 0]).mean() < 0.5


@pytest.mark.parametrize("colour", COLOURS)
def test_paint_keeps_eyes_and_opacity_and_has_its_colour(colour: str) -> None:
    before = np.asarray(body())
    after = np.asarray(painting._painted(body(), colour, "plain"))
    assert (after[..., 3] == before[..., 3]).all()
    assert (after[32:48, 52:68] == before[32:48, 52:68]).all()
    assert after[80, 100, :3] / 255 == pytest.approx(COLOURS[colour], abs=0.01)


def test_patterns_mark_a_part_of_the_body() -> None:
    shares = {
        pattern: np.asarray(painting._pattern_mask(pattern, (256, 200))).mean() / 255
        for pattern in PATTERNS
    }
    assert shares.pop("plain") == 0
    assert all(0.1 < share < 0.5 for share in shares.values())
    plain, spotted, striped = (painting._painted(body(), "red", each) for each in PATTERNS)
    assert len({plain.tobytes(), spotted.tobytes(), striped.tobytes()}) == 3


def test_a_picture_is_scaled_to_a_width_whatever_its_longer_side() -> None:
    for size in ((40, 20), (20, 40)):
        scaled = scaled_to_width(Image.new("RGBA", size), 30)
        assert scaled.width == 30 and scaled.height == 30 * size[1] // size[0]


@pytest.mark.slow
@needs_pictures
@pytest.mark.parametrize("species", ["mouse", "owl", "bear"])
def test_a_body_has_the_height_asked_for_with_any_token(species: str) -> None:
    bodies = {}
    for token in (UNTOLD, *TOKENS):
        made = hero_sprite(species, "blue", "plain", token, 64)
        left, top, right, bottom = made.body
        assert bottom - top == pytest.approx(64)
        height, width = made.pixels_hw4.shape[:2]
        assert -1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1
        bodies[token] = made
    # What is worn shows, and only a token at the neck may lie within the body.
    plain = bodies.pop(UNTOLD)
    for token, made in bodies.items():
        rest = made.pixels_hw4.shape[0] - plain.pixels_hw4.shape[0]
        assert made.pixels_hw4.tobytes() != plain.pixels_hw4.tobytes(), token
        assert rest >= 0, token


@pytest.mark.slow
@needs_pictures
def test_a_heros_traits_change_its_image() -> None:
    hero = Hero("Pip", "cat", "blue", "plain", "crown")
    others = (
        Hero("Pip", "dog", "blue", "plain", "crown"),
        Hero("Pip", "cat", "red", "plain", "crown"),
        Hero("Pip", "cat", "blue", "striped", "crown"),
        Hero("Pip", "cat", "blue", "plain", "scarf"),
    )
    image = StorybookScene(_EMPTY, (), Stand(hero, 0.5, 0.9)).pixels()
    for other in others:
        assert (
            np.abs(StorybookScene(_EMPTY, (), Stand(other, 0.5, 0.9)).pixels() - image).mean()
            > 0.003
        )

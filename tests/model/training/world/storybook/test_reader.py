"""How often true scenes are read right is in test_command.py."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.training.world.storybook import reader
from model.training.world.storybook.painting.hero import UNTOLD, Hero, Pattern
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import (
    Layer,
    Stand,
    StorybookScene,
    StorybookThing,
)
from model.training.world.storybook.reader import read_scene, read_setting

_LIGHT = np.ones(3, np.float32)
_MEADOW = Setting("meadow", 0, "day")


def layer(colour: tuple[float, float, float], left: int = 4) -> Layer:
    """A square of 8 pixels."""
    pixels = np.ones((8, 8, 4), np.float32)
    pixels[..., :3] = colour
    return Layer(pixels, left, 4, False, "square")


@pytest.fixture
def empty() -> np.ndarray:
    return np.full((24, 24, 3), 0.5, np.float32)


@pytest.fixture
def wanted(empty: np.ndarray) -> np.ndarray:
    image = empty.copy()
    image[4:12, 4:12] = (0.9, 0.1, 0.1)
    return image


def test_what_is_there_takes_the_whole_error_off(empty: np.ndarray, wanted: np.ndarray) -> None:
    true = layer((0.9, 0.1, 0.1))
    error = float(np.square(empty - wanted).sum())
    assert reader._gain(empty, wanted, true, _LIGHT) == pytest.approx(error)
    assert reader._is_worth(empty, wanted, true, _LIGHT)
    moved = reader._gain(empty, wanted, layer((0.9, 0.1, 0.1), left=8), _LIGHT)
    assert abs(moved) < 0.01 * error  # Half of it is right, and half is wrong.
    assert reader._gain(empty, wanted, layer((0.1, 0.9, 0.9)), _LIGHT) < 0


def test_painting_is_lit_and_may_reach_beyond_the_edge(
    empty: np.ndarray, wanted: np.ndarray
) -> None:
    bright, half = layer((1.8, 0.2, 0.2)), np.full(3, 0.5, np.float32)
    error = float(np.square(empty - wanted).sum())
    assert reader._gain(empty, wanted, bright, half) == pytest.approx(error)
    outside = layer((0.5, 0.5, 0.5), left=-30)
    assert reader._gain(empty, wanted, outside, _LIGHT) == 0
    before = empty.copy()
    reader._gain(empty, wanted, layer((0.0, 0.0, 0.0), left=-4), _LIGHT)
    assert (empty == before).all()


def test_what_explains_little_is_not_worth_painting(empty: np.ndarray, wanted: np.ndarray) -> None:
    # Near the background's colour: a gain, but far less than what it covers is off.
    assert reader._gain(empty, wanted, layer((0.52, 0.48, 0.48)), _LIGHT) > 0
    assert not reader._is_worth(empty, wanted, layer((0.52, 0.48, 0.48)), _LIGHT)
    # Nearly nothing to explain.
    dim = empty + np.float32(0.01)
    assert not reader._is_worth(empty, dim, layer((0.51, 0.51, 0.51)), _LIGHT)


def test_an_image_is_shrunk_to_the_means_of_its_squares() -> None:
    pixels = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    assert reader._shrunk(pixels, 2)[0, 0].tolist() == pixels[:2, :2].mean((0, 1)).tolist()
    picture = Image.fromarray(np.full((50, 70, 4), 255, np.uint8), "RGBA")
    assert reader._pixels(picture, 8).shape == (8, 8, 3)
    assert (reader._pixels(picture, 8) == 1).all()


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
@pytest.mark.parametrize(
    "setting", [_MEADOW, Setting("ballroom", 1, "night"), Setting("forest", 0, "evening", "snow")]
)
def test_an_empty_setting_is_read_with_nothing_in_it(setting: Setting) -> None:
    image = StorybookScene(setting).render()
    assert read_setting(image) == setting
    assert read_scene(image) == StorybookScene(setting)


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
@pytest.mark.parametrize(
    ("colour", "pattern", "token"),
    [("blue", "plain", UNTOLD), (UNTOLD, "plain", "crown"), (UNTOLD, "striped", UNTOLD)],
)
def test_a_part_of_a_look_is_read_as_it_is(colour: str, pattern: Pattern, token: str) -> None:
    stand = Stand(Hero("Pip", "penguin", colour, pattern, token), 0.5, 0.9)
    seen = read_scene(StorybookScene(_MEADOW, (), stand).render())
    assert seen.hero is not None and not seen.things
    look = (seen.hero.species, seen.hero.colour, seen.hero.pattern, seen.hero.token)
    assert look == ("penguin", colour, pattern, token)


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_things_and_a_hero_are_read_from_left_to_right() -> None:
    things = (
        StorybookThing("zebra", "normal", 0.22, 0.9),
        StorybookThing("balloon", "big", 0.8, 0.5),
    )
    hero = Hero("Pip", "frog", "blue", "striped", "crown")
    scene = StorybookScene(_MEADOW, things, Stand(hero, 0.6, 0.9))
    for image in (scene.render(), scene.render(384)):
        seen = read_scene(image)
        assert [(thing.noun, thing.size) for thing in seen.things] == [
            ("zebra", "normal"), ("balloon", "big"),
        ]  # fmt: skip
        assert seen.hero is not None
        assert (seen.hero.species, seen.hero.colour, seen.hero.token) == ("frog", "blue", "crown")
        for thing, true in zip(seen.things, things, strict=True):
            assert abs(thing.x - true.x) < 0.02 and abs(thing.y - true.y) < 0.02

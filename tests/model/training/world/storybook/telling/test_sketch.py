"""A sketch shows what words tell, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing
from model.training.world.storybook.telling.image import StorybookImage
from model.training.world.storybook.telling.sketch import sketch_of

pytestmark = pytest.mark.usefixtures("storybook_packages")

_HERO = Stand(Hero("Pip", "frog", "blue", "striped", "top hat"), 0.3, 0.9)
_SCENE = StorybookScene(
    Setting("old town", 0, "evening", "rain"), (StorybookThing("cat", "big", 0.75, 0.9),), _HERO
)


def test_it_resembles_the_image_and_kinds_are_where_things_are() -> None:
    sketch = sketch_of(_SCENE, 12, 4)
    assert sketch.pixels.shape == (48, 48, 4)
    pixels = np.asarray(_SCENE.render(192), np.float32) / 255
    averages = pixels.reshape(48, 4, 48, 4, 3).mean((1, 3))
    assert np.abs(sketch.pixels[..., :3] - averages).mean() < 0.03
    assert abs(sketch.pixels[..., 3].mean() - _SCENE.foreground(192).mean()) < 0.01
    kinds = np.array(sketch.kinds).reshape(12, 12)
    assert set(kinds.flat) == {"nothing", "frog", "cat"}
    assert (kinds[0] == "nothing").all() and kinds[9, 3] == "frog" and kinds[9, 9] == "cat"
    shares = sketch.pixels[..., 3].reshape(12, 4, 12, 4).mean((1, 3))
    assert (shares[kinds != "nothing"] > 0.2).all()


def test_what_a_hero_looks_like_is_shown_only_if_words_tell_it() -> None:
    other = replace(_HERO, hero=replace(_HERO.hero, colour="pink", token="crown"))
    told = [StorybookImage(replace(_SCENE, stand=stand)) for stand in (_HERO, other)]
    untold = [replace(image, tells_look=False) for image in told]
    assert not np.array_equal(*(sketch_of(image, 12, 4).pixels for image in told))
    assert np.array_equal(*(sketch_of(image, 12, 4).pixels for image in untold))
    assert "frog" in sketch_of(untold[0], 12, 4).kinds

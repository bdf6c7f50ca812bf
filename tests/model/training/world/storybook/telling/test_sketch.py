"""A sketch shows what words tell, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing
from model.training.world.storybook.telling.composition import cell_of, in_a_row
from model.training.world.storybook.telling.image import StorybookImage
from model.training.world.storybook.telling.sketch import StorybookSketcher

pytestmark = pytest.mark.usefixtures("storybook_packages")

SKETCHER = StorybookSketcher()
_HERO = Stand(Hero("Pip", "frog", "blue", "striped", "top hat"), 0.3, 0.9)
_SCENE = StorybookScene(
    Setting("old town", 0, "evening", "rain"), (StorybookThing("cat", "big", 0.75, 0.9),), _HERO
)


def test_things_before_the_background_resemble_the_image() -> None:
    sketch = SKETCHER.sketch(_SCENE, 12, 4)
    assert sketch.things.shape == (48, 48, 4) and sketch.background.shape == (48, 48, 3)
    colours, opacity = np.split(sketch.things, [3], -1)
    painted = colours * _SCENE.setting.light + sketch.background * (1 - opacity)
    pixels = np.asarray(_SCENE.render(192), np.float32) / 255
    averages = pixels.reshape(48, 4, 48, 4, 3).mean((1, 3))
    assert np.abs(painted - averages).mean() < 0.03 < np.abs(sketch.background - averages).mean()
    in_the_dark = replace(_SCENE, setting=replace(_SCENE.setting, time="night"))
    assert np.array_equal(SKETCHER.sketch(in_the_dark, 12, 4).things, sketch.things)


def test_kinds_are_where_things_are() -> None:
    sketch = SKETCHER.sketch(_SCENE, 12, 4)
    kinds = np.array(sketch.kinds).reshape(12, 12)
    assert set(kinds.flat) == {"nothing", "frog", "cat"}
    assert (kinds[0] == "nothing").all() and kinds[9, 3] == "frog" and kinds[9, 9] == "cat"
    shares = _SCENE.foreground(48).reshape(12, 4, 12, 4).mean((1, 3))
    assert (shares[kinds != "nothing"] > 0.2).all()


def test_what_a_hero_looks_like_is_shown_only_if_words_tell_it() -> None:
    other = replace(_HERO, hero=replace(_HERO.hero, colour="pink", token="crown"))
    told = [StorybookImage(replace(_SCENE, stand=stand)) for stand in (_HERO, other)]
    untold = [replace(image, tells_look=False) for image in told]
    assert not np.array_equal(*(SKETCHER.sketch(image, 12, 4).things for image in told))
    assert np.array_equal(*(SKETCHER.sketch(image, 12, 4).things for image in untold))
    assert "frog" in SKETCHER.sketch(untold[0], 12, 4).kinds


def test_pieces_painted_at_their_cells_make_the_thing() -> None:
    scene = in_a_row(replace(_SCENE, stand=None, things=(StorybookThing("cat", "normal", 0.5, 1),)))
    (parts,) = SKETCHER.parts(scene, 12, 4)
    painted = np.zeros((12, 12, 4, 4, 4), np.float32)
    for part in filter(None, parts):
        (cell,) = part.cells
        painted[divmod(cell, 12)] = part.pixels
    canvas = painted.transpose(0, 2, 1, 3, 4).reshape(48, 48, 4)
    assert np.array_equal(canvas[..., 3] > 0.5, scene.instances(48) > 0)
    assert (canvas[..., :3] <= canvas[..., 3:] + 1e-6).all()


def test_pieces_of_equal_things_lie_at_several_cells() -> None:
    two = tuple(StorybookThing("cat", "small", x, 0.9) for x in (0.3, 0.7))
    scene = in_a_row(replace(_SCENE, stand=None, things=two))
    (cats,) = SKETCHER.parts(scene, 12, 4)
    first, second = map(cell_of, scene.entries)
    cells = [part.cells for part in cats if part]
    assert cells and all(right - left == second - first for left, right in cells)


def test_things_have_their_pieces_in_the_order_in_which_words_tell_them() -> None:
    scene = in_a_row(_SCENE)
    first, second = SKETCHER.parts(StorybookImage(scene, order=(1, 0)), 12, 4)
    of_scene = SKETCHER.parts(StorybookImage(scene), 12, 4)
    for told, shown in zip((second, first), of_scene, strict=True):
        assert [part and part.cells for part in told] == [part and part.cells for part in shown]

from __future__ import annotations

import pytest

from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing
from model.training.world.storybook.telling.image import StorybookImage, image_of
from tests.model.training.segmented import Squares

_SCENE = StorybookScene(Setting("meadow", 0, "day"), (StorybookThing("tree", "big", 0.3, 0.9),))


def test_a_bare_scene_tells_everything() -> None:
    image = image_of(_SCENE)
    assert image.scene == _SCENE
    assert image.tells_place and image.tells_sides and image.tells_look


def test_an_image_tells_what_its_example_said() -> None:
    image = StorybookImage(_SCENE, tells_place=False)
    assert image_of(image) is image


def test_an_image_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="only for images of the world"):
        image_of(Squares(()))


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_what_is_told_changes_nothing_of_what_is_seen() -> None:
    image = StorybookImage(_SCENE, tells_place=False, tells_look=False)
    assert image.render(48).tobytes() == _SCENE.render(48).tobytes()
    assert image.render(48).size == (48, 48)
    assert (image.foreground(48) == _SCENE.foreground(48)).all() and image.foreground(48).any()

"""Examples are functions of their seed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from model.training.world.drawn.painting.objects import EmojiImages
from model.training.world.drawn.painting.scene import Scene
from model.training.world.drawn.tasks import TASKS, SceneImage

SETS = [
    "drawn",
    *(["emoji"] if EmojiImages.available() else []),
]


@pytest.mark.parametrize("object_set", SETS)
@pytest.mark.parametrize("task", TASKS)
def test_examples_depend_on_the_seed_alone(task: str, object_set: str) -> None:
    first, again = (TASKS[task](random.Random(5), object_set) for _ in range(2))
    other = TASKS[task](random.Random(6), object_set)
    assert first == again
    assert first != other
    for mine, theirs in zip(first.images, again.images, strict=True):
        assert np.array_equal(np.asarray(mine.render()), np.asarray(theirs.render()))


def test_label_maps_are_images_of_the_same_size() -> None:
    scene = Scene.sample(random.Random(2))
    assert SceneImage(scene, as_label_map=True).render(48).size == (48, 48)

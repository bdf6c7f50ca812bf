"""Examples of the storybook world."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.tasks import TASKS
from model.training.world.storybook.telling.group import groups
from model.training.world.storybook.telling.image import image_of
from model.training.world.storybook.world import StorybookWorld

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]

_WORLD = StorybookWorld()


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_functions_of_the_seed(task: str) -> None:
    first, second = (_WORLD.example(task, random.Random(5)) for _ in range(2))
    assert first == second
    assert first.answer and first.prompt
    for part in (*first.prompt, *first.answer):
        assert not isinstance(part, str) or part.strip()


def test_a_story_tells_what_its_images_show_but_not_the_heros_look() -> None:
    for seed in range(20):
        story = _WORLD.example("story", random.Random(seed))
        hero = image_of(story.images[0]).scene.hero
        assert hero is not None
        words = " ".join(part for part in story.answer if isinstance(part, str)).lower()
        assert hero.pattern == "plain" or hero.pattern not in words
        for image in story.images[1:]:
            assert not image_of(image).tells_look


def test_a_sized_request_names_the_size_of_every_single_thing() -> None:
    sizes = set()
    for seed in range(20):
        request = _WORLD.example("sized_request", random.Random(seed))
        for group in groups(image_of(request.images[-1]).scene):
            assert (group.size == "normal") == (group.number > 1), request.prompt
            sizes.add(group.size)
    assert {"small", "big"} <= sizes

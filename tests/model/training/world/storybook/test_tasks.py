"""Examples of the storybook world, and scores of right and wrong answers to them."""

from __future__ import annotations

import random

import pytest

from model.training.world.example import GeneratedAnswer
from model.training.world.storybook.painting.image import image_of
from model.training.world.storybook.tasks import TASKS
from model.training.world.storybook.world import StorybookStock, StorybookWorld

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


def test_stocks_hold_every_task_that_is_trained() -> None:
    stock = StorybookStock.of_images("test", 16)
    for task in set(TASKS) - {"free_request"}:
        example = stock.example(task, random.Random(1))
        assert example.task == task


@pytest.mark.parametrize("task", _WORLD.scores)
def test_true_answers_score_one_and_no_answer_none(task: str) -> None:
    example = _WORLD.example(task, random.Random(3))
    parts = tuple(p if isinstance(p, str) else p.render() for p in example.answer)
    score = _WORLD.scores[task]
    rows = dict(score(example, GeneratedAnswer(parts, ended=True)))
    assert set(rows.values()) == {1.0}, rows
    nothing = dict(score(example, GeneratedAnswer((), ended=True)))
    assert not any(nothing.values()), nothing

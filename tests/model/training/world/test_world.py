from __future__ import annotations

import random

import pytest

from model.training.world.drawn.world import DrawnWorld
from model.training.world.storybook.world import StorybookWorld
from model.training.world.world import SegmentedWorld, World
from tests.model.training.segmented import SquareWorld


def test_worlds_that_know_their_things_one_by_one_are_told_from_others() -> None:
    assert isinstance(StorybookWorld(), SegmentedWorld)
    assert isinstance(SquareWorld(), SegmentedWorld)
    assert not isinstance(DrawnWorld(), SegmentedWorld)


@pytest.mark.parametrize("world", [DrawnWorld(), StorybookWorld()], ids=["drawn", "storybook"])
def test_scores_are_of_tasks_that_there_are(world: World) -> None:
    assert world.scores and set(world.scores) <= set(world.tasks)


def test_drawn_tasks_make_examples_of_their_name() -> None:
    world: World = DrawnWorld()
    assert {world.example(task, random.Random(0)).task for task in world.tasks} == set(world.tasks)

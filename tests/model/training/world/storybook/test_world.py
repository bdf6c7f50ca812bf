from __future__ import annotations

import random

import pytest

from model.training.world.example import Example
from model.training.world.storybook.language.seeing.captions import describe
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing
from model.training.world.storybook.tasks import TASKS
from model.training.world.storybook.telling.image import StorybookImage, image_of
from model.training.world.storybook.world import StorybookStock, StorybookWorld

_WORLD = StorybookWorld()
_THINGS = (StorybookThing("owl", "big", 0.9, 0.95), StorybookThing("cat", "normal", 0.1, 0.8))
_SCENE = StorybookScene(
    Setting("old town", 0, "evening", "rain"),
    _THINGS,
    Stand(Hero("Pip", "frog", "blue", "plain", "bow"), 0.5, 0.9),
)


def test_the_facts_of_a_whole_image_are_its_setting() -> None:
    facts = _WORLD.whole_facts(StorybookImage(_SCENE))
    assert facts == {"place": "old town", "time": "evening", "weather": "rain"}
    assert all(value in _WORLD.whole_values[name] for name, value in facts.items())


def test_an_example_in_words_has_descriptions_for_the_images_that_are_given() -> None:
    example = Example("change", (StorybookImage(_SCENE), "again"), (StorybookImage(_SCENE),))
    told = _WORLD.in_words(example)
    assert told.prompt == (describe(_SCENE), "again")
    assert told.answer == example.answer and told.unfinished
    asked = Example("caption", (StorybookImage(_SCENE), "what?"), ("words",))
    assert not _WORLD.in_words(asked).unfinished


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_every_thing_has_its_facts_and_its_own_box() -> None:
    parts = _WORLD.parts(_SCENE)
    boxes = _SCENE.boxes()
    by_what = {facts["what"]: (facts, box) for facts, box in parts}
    assert set(by_what) == {"owl", "cat", "frog"}
    for thing in _THINGS:
        assert by_what[thing.noun][1] == boxes[thing]
    assert by_what["owl"][0]["size"] == "big" and by_what["frog"][0]["colour"] == "blue"
    for facts, _ in parts:
        assert all(value in _WORLD.part_values[name] for name, value in facts.items())


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_stocks_hold_every_task_that_is_trained() -> None:
    stock = StorybookStock.of_images("test", 16)
    for task in set(TASKS) - {"free_request"}:
        example = stock.example(task, random.Random(1))
        assert example.task == task


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_stocks_are_functions_of_their_name_and_hold_about_so_many_images() -> None:
    stock = _WORLD.stock("test", 16)
    assert stock == _WORLD.stock("test", 16)
    assert not set(stock.scenes) & set(_WORLD.stock("other", 16).scenes)
    assert (len(stock.scenes), len(stock.stories)) == (8, 2)
    for seed in range(20):
        example = stock.example("caption", random.Random(seed))
        assert image_of(example.images[0]).scene in stock.scenes


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_more_is_asked_about_a_stocks_image_and_nothing_twice() -> None:
    stock = _WORLD.stock("test", 40)
    for seed in range(20):
        for task in ("grounding", "caption"):
            example = stock.example(task, random.Random(seed))
            answers = [example.answer[0], *(answer for _, answer in example.further)]
            assert len(answers) == len(set(answers))
            if task == "caption":
                assert all("box" in answer for _, answer in example.further)
    assert not stock.example("text_to_image", random.Random(0)).further

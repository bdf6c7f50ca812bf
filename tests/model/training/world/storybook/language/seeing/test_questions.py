from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from model.training.world.storybook.language.seeing import questions
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing

_SCENE = StorybookScene(
    Setting("harbour", 0, "evening"),
    (StorybookThing("castle", "normal", 0.2, 0.9), StorybookThing("zebra", "normal", 0.8, 0.9)),
)
_WITH_HERO = StorybookScene(
    Setting("forest", 0, "day", "fog"),
    (
        StorybookThing("cat", "normal", 0.05, 0.9),
        StorybookThing("cat", "normal", 0.2, 0.9),
        StorybookThing("cheese", "big", 0.9, 0.9),
    ),
    Stand(Hero("Pip", "cat", "blue", "striped", "crown"), 0.8, 0.9),
)


def pairs(family: str, scene: StorybookScene, seeds: int = 30) -> Iterator[questions.Pair]:
    for seed in range(seeds):
        yield from questions.FAMILIES[family](random.Random(seed), scene)


def test_questions_have_the_answers_of_the_scene() -> None:
    assert {a for q, a in pairs("kind", _SCENE) if "right" in q} == {"a zebra"}
    assert {a for q, a in pairs("number", _SCENE) if "castles" in q} == {"one"}
    assert {a for q, a in pairs("setting", _SCENE) if "day or night" in q} == {"evening"}


def test_what_stands_beside_something_is_asked_where_only_two_are() -> None:
    beside = {a for q, a in pairs("neighbours", _SCENE) if "the zebra" in q}
    assert beside == {"a castle"}
    assert not list(pairs("neighbours", _WITH_HERO))


@pytest.mark.parametrize("family", ["checks", "checks of hero"])
def test_what_is_checked_is_so_or_not(family: str) -> None:
    said = {question.rstrip("?"): answer for question, answer in pairs(family, _WITH_HERO, 400)}
    assert set(said.values()) == {"yes", "no"}
    true = ("is it foggy", "is it day", "is this in the forest", "is it blue", "is it striped")
    wrong = ("is it raining", "is it night", "is this in the city", "is it red", "is it plain")
    expected = dict.fromkeys(true, "yes") | dict.fromkeys(wrong, "no")
    asked = expected.keys() & said.keys()
    assert len(asked) >= 3
    assert {question: said[question] for question in asked} == {q: expected[q] for q in asked}


def test_a_token_is_asked_for_where_it_is_worn() -> None:
    asked = {question for question, _ in pairs("hero", _WITH_HERO, 400)}
    assert "what is on its head" in asked
    assert not any("neck" in question for question in asked)


def test_no_question_is_about_a_side_where_several_stand() -> None:
    assert {answer for _, answer in pairs("kind", _WITH_HERO)} == {"two cats"}


def test_things_that_are_not_counted_are_asked_for_otherwise() -> None:
    asked = {question for question, _ in pairs("number", _WITH_HERO)}
    assert asked and not any("cheese" in question for question in asked)
    assert any("is there any cheese" in question for question, _ in pairs("presence", _WITH_HERO))


def test_a_hero_counts_as_the_animal_that_it_is() -> None:
    assert {answer for _, answer in pairs("number", _WITH_HERO)} == {"three"}


def test_what_a_hero_is_or_wears_is_not_called_absent() -> None:
    alone = StorybookScene(_SCENE.setting, (), _WITH_HERO.stand)
    absent = {question for question, answer in pairs("presence", alone, 4000) if answer == "no"}
    said = " | ".join(absent)
    assert "dog" in said and "top hat" in said
    assert "a cat" not in said and "a crown" not in said


def test_a_size_is_asked_of_a_thing_that_has_one() -> None:
    assert {answer for _, answer in pairs("size", _WITH_HERO)} == {"big"}
    assert not list(pairs("size", _SCENE))


def test_a_hero_is_asked_for_all_traits_and_only_where_it_is() -> None:
    answers = {answer for _, answer in pairs("hero", _WITH_HERO)}
    assert answers == {"blue", "striped", "a crown", "a cat"}
    assert not list(pairs("hero", _SCENE))


def test_weather_is_asked_for_where_there_is_some() -> None:
    assert "it is foggy" in {answer for _, answer in pairs("setting", _WITH_HERO)}
    assert {answer for _, answer in pairs("setting", _SCENE)} == {"at the harbour", "evening"}


@pytest.mark.parametrize("scene", [_SCENE, _WITH_HERO], ids=["things", "hero"])
def test_questions_are_sentences_without_gaps(scene: StorybookScene) -> None:
    for seed in range(200):
        question, answer = questions.ask(random.Random(seed), scene)
        assert question[0].isupper() and answer[0].isupper() and answer.endswith(".")
        assert not set("[]{}|") & set(question + answer)
        assert "  " not in question


def test_a_question_about_one_of_several_pictures_names_it() -> None:
    for seed in range(50):
        question, _ = questions.ask(random.Random(seed), _SCENE, "second")
        assert "in the second " in question.lower()

"""People name what they ask for in more ways than captions do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.training.world.storybook.language.grammar import asked, phrases
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES, TIMES, WEATHERS, Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing
from model.training.world.storybook.telling.group import groups

_SETTING = Setting("harbour", 0, "evening", "snow")
_FORM_MARKS = set("[]{}|")


def _said(noun: str, number: int = 1) -> set[str]:
    """Ways to ask for some of a thing."""
    things = tuple(StorybookThing(noun, "normal", 0.2 + n / 10, 0.9) for n in range(number))
    [group] = groups(StorybookScene(_SETTING, things))
    return {asked.thing(group, random.Random(seed)) for seed in range(400)}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_has_many_names_and_none_if_untold(name: str) -> None:
    setting = replace(_SETTING, place=name)
    said = {asked.where(setting, random.Random(seed)) for seed in range(300)}
    assert len(said) >= 9 and phrases.where(setting) in said
    assert all(text and not _FORM_MARKS & set(text) for text in said)
    untold = replace(_SETTING, place=phrases.UNTOLD)
    assert {asked.where(untold, random.Random(seed)) for seed in range(30)} == {""}


def test_no_name_stands_for_two_places() -> None:
    owner: dict[str, str] = {}
    for name in PLACES:
        setting = replace(_SETTING, place=name)
        for text in {asked.where(setting, random.Random(seed)) for seed in range(400)}:
            bare = text.replace(" the ", " ").replace(" a ", " ")
            assert owner.setdefault(bare, name) == name, text


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("weather", WEATHERS)
def test_times_and_weathers_are_said(time: str, weather: str) -> None:
    setting = Setting("harbour", 0, time, weather)  # type: ignore[arg-type]
    said = {asked.when(setting, random.Random(seed)) for seed in range(400)}
    assert len(said) >= 8 and not any(_FORM_MARKS & set(text) for text in said)
    # What nobody says is meant only if it is the day, in clear weather.
    assert ("" in said) == (time == "day" and weather == "clear")


def test_a_thing_keeps_its_noun_among_words_that_change_nothing() -> None:
    balloons, penguins = _said("balloon"), _said("penguin")
    where = tuple(f"balloon {place}" for place in asked._LYING)
    assert len(balloons) > 15 and all(text.endswith(("balloon", *where)) for text in balloons)
    assert len(penguins) > 30 and all("penguin" in text for text in penguins)
    assert any(text.startswith("a penguin called ") for text in penguins)
    assert {"some bread", "some old bread"} <= _said("bread")


def test_numbers_can_be_digits_or_pairs() -> None:
    assert _said("balloon", 2) == {
        "two balloons", "2 balloons", "a pair of balloons", "a couple of balloons"
    }  # fmt: skip
    assert _said("balloon", 3) == {"three balloons", "3 balloons"}


def test_two_things_stand_side_by_side_in_words_too() -> None:
    pair = {asked.listed(("a cat", "an owl"), random.Random(seed)) for seed in range(300)}
    assert {"a cat and an owl", "a cat with an owl", "a cat, and next to it an owl"} <= pair
    three = {asked.listed(("a cat", "an owl", "a pear"), random.Random(n)) for n in range(300)}
    assert {"a cat, an owl and a pear", "a cat with an owl and a pear"} <= three
    assert all(text.startswith("a cat") and text.endswith(" and a pear") for text in three)


def test_no_word_stands_for_two_nouns() -> None:
    owner: dict[str, str] = {}
    for noun, kind in NOUNS.items():
        further = asked._THINGS.get(noun, "")
        for word in (noun, *kind.synonyms, *filter(None, further.split("|"))):
            assert owner.setdefault(word, noun) == noun, word
    assert set(asked._THINGS) <= set(NOUNS)

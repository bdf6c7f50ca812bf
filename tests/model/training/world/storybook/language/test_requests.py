"""Requests say what a scene holds, in any family of forms."""

from __future__ import annotations

import random

from model.training.world.storybook.language import captions, questions, requests, stories
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing

_SCENE = StorybookScene(
    Setting("harbour", 0, "evening"),
    (StorybookThing("castle", "normal", 0.2, 0.9), StorybookThing("zebra", "normal", 0.8, 0.9)),
)


def test_every_family_names_every_thing() -> None:
    assert not set(requests.TRAINED) & set(requests.HELD_OUT)
    for name, family in {**requests.TRAINED, **requests.HELD_OUT}.items():
        texts = {family(random.Random(seed), _SCENE) for seed in range(40)}
        assert len(texts) > 15, name
        for text in texts:
            assert "castle" in text.lower() and "zebra" in text.lower(), text
            assert not {"[", "]", "{", "}", "|"} & set(text), text


def test_questions_have_the_answers_of_the_scene() -> None:
    pairs = [
        pair
        for seed in range(20)
        for family in questions.FAMILIES.values()
        for pair in family(random.Random(seed), _SCENE)
    ]
    answers = {answer for question, answer in pairs if "right" in question}
    assert answers == {"a zebra"}
    assert {a for q, a in pairs if "how many castles" in q} == {"one"}
    assert {a for q, a in pairs if "day or night" in q} == {"evening"}


def test_captions_are_asked_for_in_many_ways() -> None:
    assert len({captions.ask(random.Random(seed)) for seed in range(200)}) > 25


def test_there_are_sixty_plot_pieces() -> None:
    pieces = stories.OPENINGS + stories.MIDDLES + stories.ENDINGS_OF_PLOTS
    assert len(set(pieces)) >= 60

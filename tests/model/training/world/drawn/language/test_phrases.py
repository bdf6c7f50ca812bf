"""Descriptions of scenes."""

from __future__ import annotations

from model.training.world.drawn.language import phrases as language
from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.painting.character import Character
from model.training.world.drawn.painting.scene import Scene, Thing


def test_a_description_names_everything() -> None:
    things = (Thing("boat", "red", "small", "left"), Thing("apple", None, "big", "middle"))
    hero = Character("Pip", "blue", "striped", "long")
    scene = Scene(Background("beach", "rainy", "evening"), things, hero, "right")
    assert language.describe(scene) == (
        "a small red boat on the left, a big apple in the middle and "
        "a striped blue hero with long ears on the right, at the beach, on a rainy evening"
    )


def test_articles_and_sentences() -> None:
    thing = Thing("apple", None, "small", "left")
    assert language.noun_phrase(thing, with_size=False) == "an apple"
    assert language.sentence("a boat") == "A boat."

from __future__ import annotations

import random

import pytest

from model.training.world.drawn.facts import DRAWN_FACTS, facts_of, scene_of, words_of
from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.painting.character import Character
from model.training.world.drawn.painting.scene import SLOTS, Scene, Thing
from model.training.world.drawn.tasks import SceneImage, any_scene
from tests.model.training.segmented import Squares

SCENE = Scene(
    Background("beach", "rainy", "evening"),
    (Thing("boat", "red", "small", "left"), Thing("apple", None, "big", "middle")),
    Character("Pip", "blue", "striped", "long"),
    "right",
)


def test_only_what_applies_is_a_fact() -> None:
    facts = facts_of(SCENE)
    assert facts["left what"] == "boat" and facts["left colour"] == "red"
    assert facts["middle what"] == "apple" and "middle colour" not in facts
    assert facts["right what"] == "hero" and "right size" not in facts
    assert (facts["right texture"], facts["right ears"]) == ("striped", "long")
    assert "left ears" not in facts
    empty = facts_of(Scene(Background("beach", "rainy", "evening")))
    assert {empty[f"{slot} what"] for slot in SLOTS} == {"nothing"}
    assert len(empty) == 3 + len(SLOTS)


def test_words_follow_the_slots_then_the_background() -> None:
    assert words_of(SCENE) == [
        ["left", "small", "red", "boat"],
        ["middle", "big", "apple"],
        ["right", "long", "striped", "blue", "hero"],
        ["beach", "rainy", "evening"],
    ]


def test_a_label_map_has_the_facts_of_its_scene() -> None:
    assert facts_of(SceneImage(SCENE, as_label_map=True)) == facts_of(SCENE)


def test_an_image_of_another_world_has_no_facts() -> None:
    with pytest.raises(ValueError, match="only for images of the world"):
        scene_of(Squares(()))


def test_every_fact_of_a_random_scene_has_a_known_value_at_the_place_of_its_slot() -> None:
    for seed in range(200):
        for name, value in facts_of(any_scene(random.Random(seed), "drawn+emoji")).items():
            assert value in DRAWN_FACTS.values[name], (name, value)
    places = DRAWN_FACTS.places
    assert [places[f"{slot} what"] for slot in SLOTS] == [0, 1, 2]
    assert places["weather"] == DRAWN_FACTS.num_places - 1

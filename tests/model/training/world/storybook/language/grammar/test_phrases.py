"""Phrases about scenes."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.painting.places import PLACES, Setting


def test_articles() -> None:
    assert phrases.article("umbrella") == "an umbrella"
    assert phrases.article("unicorn") == "a unicorn"
    assert phrases.article("ufo") == "a ufo"
    assert phrases.article("orange") == "an orange"


@pytest.mark.parametrize("name", PLACES)
def test_every_place_can_be_said_and_gone_to(name: str) -> None:
    said = {phrases.where(Setting(name, 0, "day"), random.Random(seed)) for seed in range(30)}
    assert len(said) >= 3 and phrases.where(Setting(name, 0, "day")) in said
    assert phrases.going(name).startswith("to the ")

"""A look is described as far as it is told, in many words."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.language.grammar import looks
from model.training.world.storybook.painting.hero import PATTERNS, TOKENS, UNTOLD, Hero, Pattern

_FORM_MARKS = set("[]{}|")


@pytest.mark.parametrize("token", [UNTOLD, *TOKENS])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("colour", ["blue", UNTOLD])
def test_a_look_is_said_as_far_as_it_is_told(colour: str, pattern: Pattern, token: str) -> None:
    look = Hero("Pip", "cat", colour, pattern, token)
    said = {looks.described(look, random.Random(seed)) for seed in range(200)}
    assert not any(_FORM_MARKS & set(text) or "  " in text for text in said)
    for text in said:
        assert ("blue" in text) == (colour == "blue"), text
        has_marks = any(mark in text for mark in ("strip", "spot", "dot"))
        assert has_marks == (pattern != "plain"), text
        is_worn = any(word in text.split() for word in ("with", "wearing", "in", "wears"))
        assert is_worn or token == UNTOLD, text

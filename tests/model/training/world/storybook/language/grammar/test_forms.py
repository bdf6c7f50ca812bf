"""Templates are filled, spaces and articles put right."""

from __future__ import annotations

import random

from model.training.world.storybook.language.grammar.forms import fill, mistyped


def test_choices_nest_and_may_be_empty() -> None:
    texts = {fill(random.Random(seed), "[a|b[c|]] {x}[.|]", x="y") for seed in range(60)}
    assert texts == {"a y", "a y.", "b y", "b y.", "bc y", "bc y."}


def test_articles_and_sentences_are_put_right() -> None:
    rng = random.Random(0)
    assert fill(rng, "a image of  a unicorn , please. draw it") == (
        "an image of a unicorn, please. Draw it"
    )


def test_a_slip_changes_a_longer_word_only() -> None:
    rng = random.Random(3)
    for _ in range(50):
        words = mistyped(rng, "Draw a cat").lower().rstrip(".").split()
        assert words[1:] == ["a", "cat"]
        assert words[0] != "draw"

"""The lower bound of a prompt's length."""

from __future__ import annotations

from service.messages import ModelCard, count_words


def card(words: int, characters: int) -> ModelCard:
    return ModelCard(
        max_prompt_tokens=100,
        max_images=4,
        tokens_per_image=10,
        words_per_token=words,
        characters_per_token=characters,
    )


def test_words_are_runs_of_letters() -> None:
    assert count_words("two words, 3 or 4x") == 4
    assert count_words("Stra\ufffde") == 1
    assert count_words("12 _ !") == 0


def test_least_tokens_takes_the_tighter_bound() -> None:
    assert card(1, 100).least_tokens(["one two", "three"], 2) == 1 + 20 + 3
    assert card(10, 2).least_tokens(["abcdefgh"], 0) == 1 + 4


def test_an_unknown_vocabulary_bounds_nothing() -> None:
    assert card(0, 0).least_tokens(["many words here"], 1) == 11

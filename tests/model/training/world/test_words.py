from __future__ import annotations

import pytest

from model.training.world.words import NUMBERS, ORDINALS, joined


@pytest.mark.parametrize(
    ("phrases", "text"),
    [
        (["a cat"], "a cat"),
        (["a cat", "an owl"], "a cat and an owl"),
        (["a cat", "an owl", "a bee"], "a cat, an owl and a bee"),
    ],
)
def test_phrases_are_joined_as_people_say_them(phrases: list[str], text: str) -> None:
    assert joined(phrases) == text


def test_there_is_an_ordinal_for_every_number() -> None:
    assert list(NUMBERS) == list(range(1, len(ORDINALS) + 1))

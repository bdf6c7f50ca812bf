"""Words that the languages of all worlds share."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def joined(phrases: Sequence[str]) -> str:
    """Phrases as a list with "and"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]

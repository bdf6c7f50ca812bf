"""Streamed text is a function of the ids alone, and stop strings end it exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model.checkpoint.seeded import build_tokenizer
from model.config.presets import preset
from model.engine.text.detokenizer import Detokenizer

TOKENIZER: Tokenizer = build_tokenizer(preset("tiny")).backend_tokenizer
SAMPLE = "Grüße, 世界! 🙂 A stop, a stopwatch and a full STOP."


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def stream(ids: list[int], stop: tuple[str, ...] = (), chunks: tuple[int, ...] = ()) -> str:
    detokenizer = Detokenizer(TOKENIZER, stop=stop)
    text, at = "", 0
    for size in (*chunks, len(ids)):
        text += detokenizer.feed(ids[at : at + size])[0]
        at += size
    return text + detokenizer.flush()


def test_text_comes_out_whole() -> None:
    assert stream(ids_of(SAMPLE)) == SAMPLE


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("stop",), "Grüße, 世界! 🙂 A "),
        (("stopwatch",), "Grüße, 世界! 🙂 A stop, a "),
        (("STOP.", "watch"), "Grüße, 世界! 🙂 A stop, a stop"),
        (("nowhere",), SAMPLE),
        (("界",), "Grüße, 世"),
    ],
)
def test_stop_strings_end_it(stop: tuple[str, ...], expected: str) -> None:
    assert stream(ids_of(SAMPLE), stop) == expected


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 40))
@settings(deadline=None)
def test_resuming_changes_nothing(sizes: list[int], cut: int) -> None:
    """Whatever was streamed, another process that feeds the same ids goes on from there."""
    ids, stop = ids_of(SAMPLE), ("full STOP!", "watchdog")
    first = Detokenizer(TOKENIZER, stop=stop)
    shown = first.feed(ids[:cut])[0]
    second = Detokenizer(TOKENIZER, stop=stop)
    assert second.feed(ids[:cut])[0] == shown
    assert shown + second.feed(ids[cut:])[0] + second.flush() == SAMPLE
    assert stream(ids, stop, tuple(sizes)) == SAMPLE


def test_min_tokens_comes_before_stop_strings() -> None:
    detokenizer = Detokenizer(TOKENIZER, stop=("Gr",), min_tokens=5)
    ids = ids_of("Great Great Great Great Great Gr Gr")
    text, used = detokenizer.feed(ids)
    assert detokenizer.stopped and used > 5 and text.startswith("Great")


def test_special_tokens_are_not_text() -> None:
    special = preset("tiny").special_tokens
    ids = [*ids_of("one"), special.eos_token_id]
    assert stream(ids) == "one"

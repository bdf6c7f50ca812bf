from __future__ import annotations

import argparse
import io

import pytest
from rich.console import Console

from service.bench.trace.command import _document, _print, add_arguments, spans_of_answer
from service.client.stream import StreamedAnswer
from tests.service.bench.trace.test_picture import SPANS


def answer(*kinds: str) -> StreamedAnswer:
    made = StreamedAnswer()
    for index, kind in enumerate(kinds):
        made.add({"type": "part.start", "index": index, "kind": kind})
        if kind == "image":
            made.add({"type": "image.done", "index": index, "sha256": "0"})
    return made


@pytest.mark.parametrize(
    ("kinds", "turns"),
    [
        (("text",), 1),
        (("text", "image", "text"), 3),
        (("text", "image"), 2),
        # The text before an image may be empty.
        (("image", "text"), 3),
        ((), 0),
    ],
)
def test_every_turn_has_its_spans(kinds: tuple[str, ...], turns: int) -> None:
    wanted = spans_of_answer(answer(*kinds))
    assert wanted["commit"] == wanted["queue wait"] == turns
    assert wanted["generate_content mm-interleaved"] == turns
    assert wanted["denoise"] == kinds.count("image")
    assert wanted["POST /generate"] == 1


def test_the_arguments_are_the_request() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--text", "A cat.", "--images", "1", "--steps", "4", "--tokens", "9"]
    document = _document(parser.parse_args(words))
    kinds = [part["type"] for part in document["content"]]
    assert kinds == ["text", "image", "text"] and document["content"][2]["text"] == "A cat."
    assert (document["max_images"], document["max_tokens"]) == (1, 9)
    assert document["image"]["steps"] == 4 and document["temperature"] == 0


def test_spans_are_printed_from_the_first_on_below_their_parents() -> None:
    console = Console(file=io.StringIO(), width=100)
    _print(SPANS, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "   0.000 s    1.000 s  root  (mmi-gateway)"
    assert lines[2] == "   0.011 s    0.001 s      inner <x>  (mmi-gateway)"

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from service.client.stream import StreamedAnswer
from service.commands.local import demo

ARGUMENTS = SimpleNamespace(seed=7, steps=3, out=Path("out"))


def answer_of(*kinds: str) -> StreamedAnswer:
    answer = StreamedAnswer()
    for index, kind in enumerate(kinds):
        answer.parts[index] = {"type": kind, "text": "a cat"} | (
            {"sha256": "0"} if kind == "image" else {}
        )
    return answer


@pytest.mark.parametrize(
    ("answers", "code", "seeds"),
    [
        ([("text", "image")], 0, [7]),
        ([("text",), ("text", "image")], 0, [7, 8]),
        ([("text",)] * 4, 1, [7, 8, 9, 10]),
    ],
)
def test_other_seeds_are_tried_until_an_image_comes(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, ...]], code: int, seeds: list[int]
) -> None:
    tried: list[int] = []

    def generate(client: Any, given: Any, document: dict[str, Any], *_: Any) -> StreamedAnswer:
        tried.append(document["seed"])
        assert document["image"]["seed"] == document["seed"]
        return answer_of(*answers[len(tried) - 1])

    monkeypatch.setattr(demo, "generate", generate)
    console = Console(file=io.StringIO())
    assert demo._ask("http://127.0.0.1:9", ARGUMENTS, console) == code  # type: ignore[arg-type]
    assert tried == seeds

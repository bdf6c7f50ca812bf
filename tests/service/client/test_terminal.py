from __future__ import annotations

import io

from rich.console import Console

from service.client.terminal import TerminalView
from tests.service.client.test_stream import CHOICES


def shown(events: list[dict]) -> str:
    file = io.StringIO()
    view = TerminalView(Console(file=file, width=80))
    for event in events:
        view.show(event)
    return file.getvalue()


def test_each_of_several_answers_is_shown_when_it_is_complete() -> None:
    text = shown(CHOICES)
    assert text.index("answer 2") < text.index("a dog") < text.index("answer 1")


def test_text_images_and_the_end() -> None:
    text = shown(
        [
            {"type": "response.created"},
            {"type": "part.start", "index": 0, "kind": "text"},
            {"type": "text.delta", "index": 0, "text": "[b]a cat[/b]"},
            {"type": "part.start", "index": 1, "kind": "image"},
            {"type": "image.progress", "index": 1, "step": 1, "total": 2},
            {"type": "image.done", "index": 1, "width": 8, "height": 9, "seed": 3},
            {"type": "response.failed", "error": {"message": "out of memory"}},
        ]
    )
    assert text.startswith("[b]a cat[/b]\n")
    assert text.index("image 8x9, seed 3") < text.index("failed: out of memory")


def test_the_reason_of_an_early_end_is_shown() -> None:
    assert "(incomplete: max_tokens)" in shown(
        [{"type": "response.incomplete", "reason": "max_tokens"}]
    )

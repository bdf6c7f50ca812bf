from __future__ import annotations

from pathlib import Path

from service.client.page import save_answer
from service.client.stream import Given, StreamedAnswer
from tests.service.client.test_stream import CHOICES

IMAGE = [
    {"type": "part.start", "choice": 1, "index": 1, "kind": "image"},
    {
        "type": "image.done", "choice": 1, "index": 1, "sha256": "0", "mime": "image/png",
        "width": 8, "height": 8, "seed": 3,
    },
]  # fmt: skip


def answered(events: list[dict]) -> StreamedAnswer:
    answer = StreamedAnswer()
    for event in events:
        answer.add(event)
    return answer


def test_several_answers_are_saved_in_order(tmp_path: Path) -> None:
    answer = answered(CHOICES[:4] + IMAGE + CHOICES[4:])
    images, page = save_answer([Given(text="A")], answer, lambda part: b"png", tmp_path)
    assert [path.name for path in images] == ["image-1.png"]
    assert images[0].read_bytes() == b"png"
    assert page.read_text().index("Answer 1") < page.read_text().index("a dog")


def test_the_page_escapes_text_and_holds_the_given_image(tmp_path: Path) -> None:
    path = tmp_path / "<cat>.webp"
    path.write_bytes(b"webp")
    events = [
        {"type": "part.start", "index": 0, "kind": "text"},
        {"type": "text.delta", "index": 0, "text": "<script>"},
        {"type": "usage", "output_tokens": 4, "request_id": "r"},
    ]
    images, page = save_answer(
        [Given(path=path)], answered(events), lambda part: b"", tmp_path / "out"
    )
    text = page.read_text()
    assert images == [] and "<script>" not in text and "&lt;script&gt;" in text
    assert "data:image/webp;base64,d2VicA==" in text and "&lt;cat&gt;.webp" in text
    assert "unfinished. 4 output tokens" in text

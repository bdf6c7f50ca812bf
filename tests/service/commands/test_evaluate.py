from __future__ import annotations

import argparse
import base64
import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from model.training.evaluation.answers import MAX_TOKENS, max_images
from model.training.world.drawn import tasks
from service.commands import evaluate


class ScriptedGateway:
    """Stands in for the client: keeps the requests, and answers with a text and an image."""

    documents: list[dict[str, Any]] = []

    def __init__(self, url: str, api_key: str | None) -> None:
        pass

    def stream(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.documents.append(document)
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
        yield {"type": "part.start", "index": 0, "kind": "text"}
        yield {"type": "text.delta", "index": 0, "text": "red"}
        yield {"type": "part.start", "index": 1, "kind": "image"}
        yield {"type": "image.done", "index": 1, "sha256": "0", "b64": buffer.getvalue()}
        yield {"type": "response.completed"}

    def image(self, part: dict[str, Any]) -> bytes:
        image: bytes = part["b64"]
        return image

    def close(self) -> None:
        pass


def test_examples_are_answered_by_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "GatewayClient", ScriptedGateway)
    monkeypatch.setattr(ScriptedGateway, "documents", [])
    asked = [tasks.story(random.Random(seed)) for seed in range(2)]
    answers = evaluate.ServedAnswerer("http://gateway", None, 5, 2.5, 7).answer(asked, first=3)

    assert [answer.text for answer in answers] == ["red", "red"]
    assert all(answer.ended and len(answer.images) == 1 for answer in answers)
    documents = sorted(ScriptedGateway.documents, key=lambda d: d["seed"])
    assert [d["seed"] for d in documents] == [7 + 300, 7 + 400]
    for document, example in zip(documents, asked, strict=True):
        num = max_images(example)
        assert (document["max_images"], document["max_tokens"]) == (num, MAX_TOKENS * (num + 1))
        assert document["image"]["steps"] == 5 and document["temperature"] == 0
        kinds = ["text" if isinstance(part, str) else "image" for part in example.prompt]
        assert [part["type"] for part in document["content"]] == kinds
        for part in document["content"]:
            if part["type"] == "image":
                Image.open(io.BytesIO(base64.b64decode(part["b64"]))).verify()


def test_a_synchronizer_of_a_running_system_cannot_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    assert evaluate.run(parser.parse_args(["--served", "http://g", "--without", "text"])) == 2
    assert "--without does not work with --served" in capsys.readouterr().out

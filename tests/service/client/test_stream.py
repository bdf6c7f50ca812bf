from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client.stream import (
    GatewayClient,
    RequestRefused,
    StreamedAnswer,
    content_of,
    parse_events,
    read_arguments,
)


def test_arguments_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(b"png")
    Path("odd").write_bytes(b"png")

    parts = read_arguments(["look:", "cat.png", "missing.png", "@odd"])

    assert [part.text or part.path for part in parts] == [
        "look:", Path("cat.png"), "missing.png", Path("odd"),
    ]  # fmt: skip
    assert [part["type"] for part in content_of(parts)] == ["text", "image", "text", "image"]


@pytest.mark.parametrize("arguments", [[""], ["@missing"]])
def test_arguments_that_make_no_request(arguments: list[str]) -> None:
    with pytest.raises(ValueError):
        read_arguments(arguments)


def test_events_are_parsed_around_comments() -> None:
    lines = ["retry: 5", "", ": ping", "", "id: 1-0", "event: a", 'data: {"type": "a"}', ""]
    assert list(parse_events(iter(lines))) == [("1-0", {"type": "a"})]


def test_answers_are_put_together() -> None:
    answer = StreamedAnswer()
    for event in (
        {"type": "part.start", "index": 0, "kind": "text"},
        {"type": "text.delta", "index": 0, "text": "a "},
        {"type": "text.delta", "index": 0, "text": "cat"},
        {"type": "part.start", "index": 1, "kind": "image"},
        {"type": "image.done", "index": 1, "sha256": "0", "mime": "image/png"},
        {"type": "something.new"},
        {"type": "response.completed"},
    ):
        answer.add(event)

    assert [part["type"] for part in answer.ordered] == ["text", "image"]
    assert answer.ordered[0]["text"] == "a cat"
    assert answer.end == {"type": "response.completed"}


CHOICES: list[dict[str, Any]] = [
    {"type": "part.start", "choice": 1, "index": 0, "kind": "text"},
    {"type": "part.start", "choice": 0, "index": 0, "kind": "text"},
    {"type": "text.delta", "choice": 0, "index": 0, "text": "a cat"},
    {"type": "text.delta", "choice": 1, "index": 0, "text": "a dog"},
    {"type": "choice.completed", "choice": 1},
    {"type": "choice.incomplete", "choice": 0, "reason": "max_tokens"},
    {"type": "usage", "output_tokens": 4},
    {"type": "response.incomplete", "reason": "max_tokens"},
]


def test_several_answers_are_kept_apart() -> None:
    answer = StreamedAnswer()
    for event in CHOICES:
        answer.add(event)
    assert [one.ordered[0]["text"] for one in answer.alternatives] == ["a cat", "a dog"]
    assert [one.end and one.end["type"] for one in answer.alternatives] == [
        "response.incomplete", "response.completed",
    ]  # fmt: skip
    assert answer.usage["output_tokens"] == 4 and answer.end == CHOICES[-1]


class BreakingGateway:
    """Streams numbered events, two per connection; the third connection ends the answer."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        first = 2 * len(self.requests) - 1
        events = [{"type": "text.delta", "text": str(n)} for n in (first, first + 1)]
        if len(self.requests) == 3:
            events[-1] = {"type": "response.completed"}
        lines = [
            f"id: {first + n}\ndata: {json.dumps(event | {'request_id': 'r'})}\n\n"
            for n, event in enumerate(events)
        ]
        return httpx.Response(200, text="".join(lines))


def client_of(handler: Any) -> GatewayClient:
    client = GatewayClient("http://gateway", "key")
    client._http = httpx.Client(
        base_url="http://gateway", transport=httpx.MockTransport(handler), headers={"X": "1"}
    )
    return client


def test_a_broken_stream_is_resumed_after_its_last_event() -> None:
    gateway = BreakingGateway()
    events = list(client_of(gateway).stream({"content": []}))
    assert [event.get("text") for event in events] == ["1", "2", "3", "4", "5", None]
    first, second, third = gateway.requests
    assert (first.method, first.url.path) == ("POST", "/generate")
    assert (second.method, second.url.path) == ("GET", "/v1/requests/r/events")
    assert [r.headers.get("last-event-id") for r in (first, second, third)] == [None, "2", "4"]


def test_a_stream_that_keeps_breaking_is_given_up() -> None:
    with pytest.raises(RequestRefused, match="without a terminal event"):
        list(client_of(BreakingGateway()).stream({"content": []}, resumes=1))


@pytest.mark.parametrize(
    ("body", "message"),
    [('{"error": {"message": "too large"}}', "413: too large"), ("?", "413: ?")],
)
def test_a_refusal_says_why(body: str, message: str) -> None:
    client = client_of(lambda request: httpx.Response(413, text=body))
    with pytest.raises(RequestRefused, match=message.replace("?", r"\?")):
        next(client.stream({"content": []}))


def test_an_image_comes_from_its_event_or_from_the_gateway() -> None:
    client = client_of(lambda request: httpx.Response(200, content=request.url.path.encode()))
    assert client.image({"b64": "cG5n", "sha256": "7"}) == b"png"
    assert client.image({"sha256": "7"}) == b"/v1/images/7"

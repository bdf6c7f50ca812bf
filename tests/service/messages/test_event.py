"""Events as clients get them."""

from __future__ import annotations

import json

from service.messages import StoredEvent


def stored(kind: str, raw: str) -> StoredEvent:
    return StoredEvent(id="1-0", sequence_number=3, request_id="req_1", type=kind, raw=raw)


def test_an_events_own_fields_follow_its_head() -> None:
    event = stored("text.delta", '{"index":0,"text":"a"}')

    assert event.encode() == (
        '{"type":"text.delta","sequence_number":3,"request_id":"req_1","index":0,"text":"a"}'
    )
    assert event.document() == json.loads(event.encode())
    assert event.data == {"index": 0, "text": "a"} and not event.terminal


def test_an_event_without_fields_is_its_head() -> None:
    event = stored("response.completed", "{}")

    assert event.document() == {
        "type": "response.completed",
        "sequence_number": 3,
        "request_id": "req_1",
    }
    assert event.terminal

from __future__ import annotations

import json

import pytest

from service.broker.stream.record import fields_of, flatten, parse_event, parse_status
from service.errors import DecodeError
from service.messages import (
    Request,
    ResponseCompleted,
    TextDeltaEvent,
    TextPart,
    TextResult,
    Usage,
)

REQUEST = Request(content=(TextPart(text="hello"),), n=2)
FIELDS = {
    "state": b"completed",
    "turn": b"2",
    "created": b"1000",
    "deadline": b"9000",
    "finished": b"3000",
    "usage": Usage(images=1).encode().encode(),
    "part:1": TextResult(text="second", token_ids=(2,)).encode().encode(),
    "part:0": TextResult(text="first", token_ids=(1,)).encode().encode(),
}


def test_fields_of_both_forms_of_a_reply() -> None:
    expected = {"a": b"1", "b": b"2"}
    assert fields_of([b"a", b"1", b"b", b"2"]) == expected
    assert fields_of({b"a": b"1", b"b": b"2"}) == expected


def test_a_status_has_its_parts_in_order() -> None:
    status = parse_status(REQUEST.request_id, FIELDS, REQUEST.encode().encode())

    assert [result.text for result in status.results] == ["first", "second"]
    assert (status.state, status.turn, status.finished_ms) == ("completed", 2, 3000)
    assert status.usage.images == 1 and status.error is None and status.reason is None
    assert status.request == REQUEST


def test_a_choice_is_derived_from_its_groups_request() -> None:
    choice = REQUEST.choices[1]
    status = parse_status(choice.request_id, FIELDS, REQUEST.encode().encode())

    assert status.request == choice


@pytest.mark.parametrize("broken", [{"turn": b"x"}, {"created": None}, {"part:0": b"{}"}])
def test_a_malformed_record(broken: dict[str, bytes | None]) -> None:
    fields = {name: text for name, text in (FIELDS | broken).items() if text is not None}
    with pytest.raises(DecodeError):
        parse_status(REQUEST.request_id, fields, REQUEST.encode().encode())


def test_an_event_survives_its_stream_entry() -> None:
    event = TextDeltaEvent(index=0, text="caf\u00e9")
    count, kind, data, token_ids = flatten([(event, "5,6")])
    entry = [b"n", b"3", b"t", kind.encode(), b"d", data.encode(), b"k", token_ids.encode()]

    stored = parse_event("req_1", b"12-0", entry)

    assert count == 1
    assert (stored.id, stored.sequence_number, stored.type) == ("12-0", 3, "text.delta")
    assert stored.data == {"index": 0, "text": "caf\u00e9"}
    assert stored.token_ids == (5, 6)


def test_events_of_a_choice_name_it_and_end_only_it() -> None:
    _, kind, data, _ = flatten([(ResponseCompleted(), "")], choice=1)

    assert kind == "choice.completed"
    assert json.loads(data)["choice"] == 1

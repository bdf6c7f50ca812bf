from __future__ import annotations

import pytest

from service.broker.stream.delivered import Delivered
from service.errors import EventsReplaced
from service.messages import StoredEvent


def event(number: int, at: int, text: str = "") -> StoredEvent:
    return StoredEvent(
        id=f"{at}-0", sequence_number=number, request_id="r", type="text.delta", raw=f'"{text}"'
    )


def test_every_event_is_passed_on_once() -> None:
    delivered = Delivered("0-0")
    events = [event(number, 10 + number) for number in range(4)]

    assert delivered.new(events[:3]) == events[:3]
    assert delivered.cursor == "12-0"
    assert delivered.new(events[1:]) == events[3:]
    assert delivered.cursor == "13-0"


def test_an_event_that_was_appended_again_is_not_new() -> None:
    delivered = Delivered("0-0")
    delivered.new([event(0, 10, "a"), event(1, 11, "b")])

    assert delivered.new([event(1, 20, "b"), event(2, 21, "c")]) == [event(2, 21, "c")]
    assert delivered.cursor == "21-0"


def test_another_event_under_a_delivered_number_is_an_error() -> None:
    delivered = Delivered("0-0")
    delivered.new([event(0, 10, "a"), event(1, 11, "b")])

    with pytest.raises(EventsReplaced):
        delivered.new([event(1, 20, "b c")])


def test_what_is_no_longer_remembered_cannot_be_the_same() -> None:
    delivered = Delivered("0-0")
    delivered.new([event(number, 10 + number) for number in range(1000)])

    assert delivered.new([event(999, 5000)]) == []
    with pytest.raises(EventsReplaced):
        delivered.new([event(0, 5001)])


def test_a_resumed_reader_starts_at_any_number() -> None:
    delivered = Delivered("9-0")

    assert delivered.new([event(7, 10)]) == [event(7, 10)]
    assert delivered.new([event(7, 20)]) == []
    with pytest.raises(EventsReplaced):
        delivered.new([event(6, 21)])

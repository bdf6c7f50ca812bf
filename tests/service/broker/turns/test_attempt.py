from __future__ import annotations

import time

import pytest

from service.broker.turns.attempt import AppendTimes, Delivery
from service.errors import DecodeError
from service.messages import TextTask


def test_a_delivery_knows_its_request_and_when_it_was_enqueued() -> None:
    task = TextTask(request_id="req_1.2", turn=3)
    delivery = Delivery("tasks", 0, "1763923571240-5", task.encode())
    assert delivery.task() == task
    assert (delivery.request_id, delivery.enqueued_ms) == ("req_1.2", 1763923571240)


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"type":"video"}', b"\xff"])
def test_what_is_no_task_has_no_request(payload: bytes) -> None:
    delivery = Delivery("tasks", 0, "1-0", payload)
    assert delivery.request_id == ""
    with pytest.raises(DecodeError):
        delivery.task()


def test_append_times_span_the_first_to_the_last() -> None:
    times, before = AppendTimes(), time.time_ns()
    times.add(0.25)
    times.add(0.5)
    assert (times.count, times.seconds) == (2, 0.75)
    assert before - 0.25e9 <= times.began_ns < times.ended_ns <= time.time_ns()

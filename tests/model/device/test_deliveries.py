"""News wait for the device; the host runs ahead of it by a bounded number of steps."""

from __future__ import annotations

import pytest
import torch

from model.device.deliveries import Deliveries
from model.device.stream import HostStream
from tests.model.device.accelerator import FakeStream


def test_calls_are_made_in_order_when_the_device_has_come_so_far() -> None:
    stream, made = FakeStream(), []
    deliveries = Deliveries(stream)
    for number in range(3):
        deliveries.add(lambda number=number: made.append(number))  # type: ignore[misc]
    deliveries.deliver(ahead=1)
    assert made == [0, 1]
    assert stream.log[-2:] == ["wait 0", "wait 1"]
    stream.reached = 2
    deliveries.deliver(ahead=1)
    assert made == [0, 1, 2]
    assert len(deliveries) == 0


def test_a_cpu_has_always_come_so_far() -> None:
    made: list[int] = []
    deliveries = Deliveries(HostStream(torch.device("cpu")))
    deliveries.add(lambda: made.append(1))
    deliveries.deliver(ahead=5)
    assert made == [1]


def test_a_failed_device_is_reported_and_its_call_dropped() -> None:
    class Broken(FakeStream):
        def record(self) -> object:  # type: ignore[override]
            event = super().record()
            event.wait = self.fail  # type: ignore[method-assign]
            return event

        def fail(self) -> None:
            raise RuntimeError("illegal address")

    deliveries = Deliveries(Broken())
    deliveries.add(lambda: pytest.fail("delivered"))
    with pytest.raises(RuntimeError, match="illegal address"):
        deliveries.deliver(ahead=0)
    assert len(deliveries) == 0

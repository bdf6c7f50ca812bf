from __future__ import annotations

import asyncio

import pytest

from service.bench.gateway import phases
from service.bench.gateway.reader import Reading, ResponseHead


def reading_of(first_ms: float, last_ms: float) -> Reading:
    return Reading(first_ms, last_ms, [100.0, 1.0, 1.0, 4.0])


def test_figures_leave_out_the_delay_of_the_first_token() -> None:
    figures = phases._figures([reading_of(10, 40), reading_of(20, 80)])
    assert (figures["first_token_ms"], figures["first_token_ms_most"]) == (15, 20)
    assert figures["token_delay_ms"] == 1
    assert figures["ms_between_tokens"] == 15


async def test_as_many_requests_run_at_once_as_asked_for() -> None:
    running, highest = 0, 0

    async def read() -> Reading:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Reading()

    assert len(await phases._read_all(read, 7, 3)) == 7
    assert highest == 3


async def test_overload_counts_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold(port: int, tokens: int) -> Reading:
        await asyncio.Event().wait()
        return Reading()

    async def refuse(port: int, tokens: int) -> ResponseHead:
        return ResponseHead(429, {"retry-after": "1"}, 2.0)

    monkeypatch.setattr(phases, "read_stream", hold)
    monkeypatch.setattr(phases, "read_head", refuse)
    figures = await phases.overload(1, 2, 10, 2)
    assert figures["asked"] == figures["refused_429"] == figures["with_retry_after"] == 10
    assert figures["refusal_ms"] == figures["refusal_ms_most"] == 2.0

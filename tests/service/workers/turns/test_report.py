"""One line and the counts of every turn."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest
from prometheus_client import REGISTRY

from service.messages import TERMINAL_STATES
from service.telemetry.metrics import TOKEN_KINDS
from service.workers.turns.outcomes import TurnOutcome
from tests.service.workers.conftest import Stage


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_both_workers_tell_of_a_request_by_its_id(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await stage.start("text", lease_s=60)
    await stage.start("image", lease_s=60)
    request = await stage.submit("told", owner="alice")
    await stage.events(request)

    def told() -> list[dict[str, object]]:
        return [vars(r) for r in caplog.records if r.name == "service.workers.turns.report"]

    while len(told()) < 5:  # The last line follows the last event.
        await asyncio.sleep(0.01)
    lines = told()
    assert [line["turn"] for line in lines] == [0, 1, 2, 3, 4]
    for line in lines:
        assert (line["owner"], line["outcome"], line["delivery"]) == ("alice", "committed", 1)
        assert line["wait_s"] >= 0 and line["duration_s"] > 0


async def test_labelled_counters_begin_at_zero(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    for name in ("text", "image"):
        for outcome in get_args(TurnOutcome):
            assert value("mmi_turns_total", stage=name, outcome=outcome) is not None
        for metric in ("mmi_dead_letters_total", "mmi_reclaimed_total", "mmi_turn_seconds_count"):
            assert value(metric, stage=name) is not None
    for state in TERMINAL_STATES:
        assert value("mmi_requests_finished_total", state=state) is not None
    for kind in TOKEN_KINDS:
        assert value("mmi_tokens_total", kind=kind) is not None

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from service.bench.echo import EchoEngine
from service.bench.reader import Reading, read_direct
from service.cli import main


async def test_all_requests_get_their_tokens_in_the_same_steps() -> None:
    engine = EchoEngine()
    readings = await asyncio.gather(*(read_direct(engine, 5) for _ in range(3)))
    assert [len(reading.delays_ms) for reading in readings] == [5, 5, 5]
    # The first token comes at once, the others step by step.
    assert all(reading.first_ms < reading.last_ms for reading in readings)
    assert all(delay >= 0 for reading in readings for delay in reading.delays_ms)


def test_a_delta_of_several_tokens_counts_each() -> None:
    reading = Reading()
    reading.note(0, "1 2 3 ")
    assert len(reading.delays_ms) == 3 and reading.first_ms == reading.last_ms > 0


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--requests", "2", "--tokens", "5", "--streams", "5", "--concurrency", "1", "2"]
    assert main(["bench", "gateway", *arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["completed_streams"] == 5
    assert figures["refused_429"] == figures["with_retry_after"] == figures["asked"] == 200
    assert figures["added_first_token_ms at 1"] > 0

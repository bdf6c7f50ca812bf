"""A long run in which clients leave at random; whoever stays gets exactly the clean answer.

MMI_SOAK_S=1200 pytest -m soak tests/faults
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from service.broker.turns.queue import Queue
from tests.faults.client import Client, Story
from tests.faults.engines import Speed
from tests.faults.report import Report
from tests.faults.system import System

_IN_FLIGHT = 12
_OUT = Path(__file__).resolve().parents[2] / "out" / "soak.json"


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Soak:
    """Stories that are told to their end, and stories that are left at a random moment."""

    def __init__(self, system: System, seconds: float) -> None:
        self.system = system
        self.until = time.monotonic() + seconds
        self.random = random.Random(2)
        self.client = Client(system.gateways)
        self.told: list[Story] = []
        self.left: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(_IN_FLIGHT):
                group.create_task(self._one_after_the_other(number))

    async def _one_after_the_other(self, lane: int) -> None:
        number = 0
        while time.monotonic() < self.until:
            number += 1
            story = Story(f"soak {lane} {number % 20}", seed=number % 20)
            if self.random.random() < 0.4:
                await self._leave(story)
            else:
                await self.client.tell(story)
                self.told.append(story)

    async def _leave(self, story: Story) -> None:
        """Stop reading at a random moment, and cancel in one of two ways."""
        try:
            async with asyncio.timeout(self.random.uniform(0.05, 1.2)):
                await self.client.tell(story)
        except TimeoutError:
            pass
        if not story.request_id or story.done:
            self.left["too early or too late"] += 1
            return
        if self.random.random() < 0.5:
            async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
                url = f"{self.system.gateways[0]}/v1/requests/{story.request_id}"
                reply = await http.delete(url)
            assert reply.status_code == 200, reply.text
            self.left["DELETE"] += 1
        else:
            self.left["left without a word"] += 1


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_soak(tmp_path: Path) -> None:
    seconds = float(os.environ.get("MMI_SOAK_S", "1200"))
    notes = tmp_path / "system"
    notes.mkdir()
    system = System(notes, Speed(0.02, 0.03, str(notes / "notes")))
    await system.start()
    soak = Soak(system, seconds)
    await asyncio.sleep(5)
    before = {f"{role.kind} {role.pid}": rss_mib(role.pid) for role in system.roles}
    try:
        await soak.run()
        queue = Queue(system.broker)
        give_up = time.monotonic() + 60
        depths = []
        while depths != [(0, 0), (0, 0)] and time.monotonic() < give_up:
            await asyncio.sleep(0.2)
            depths = [await queue.depth("text"), await queue.depth("image")]
        load = await queue.load()
        after = {f"{role.kind} {role.pid}": rss_mib(role.pid) for role in system.roles}
        info = await system.broker.client.info("memory")
    finally:
        await soak.client.close()
        await system.stop()
    report = Report(seconds=seconds)
    wrong = report.judge(soak.told)
    document = {
        "seconds": seconds,
        "told": len(soak.told),
        "left": dict(soak.left),
        "wrong": len(wrong),
        "lost": report.lost_events,
        "duplicated": report.duplicated_events,
        "reordered": report.reordered_events,
        "rss_mib_before": before,
        "rss_mib_after": after,
        "redis_mib": round(info["used_memory"] / 2**20, 1),
    }
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(document, indent=2) + "\n")
    print("\n" + json.dumps(document, indent=2))  # noqa: T201 - the table is what the run is for
    assert not wrong, "\n".join(wrong)
    assert depths == [(0, 0), (0, 0)], "something is still held"
    assert (load.active_requests, load.text_work, load.image_work) == (0, 0, 0)
    assert system.restarts == 0

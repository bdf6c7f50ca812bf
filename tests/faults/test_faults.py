"""Hundreds of deaths, cuts and stalls under load; every client must see its whole answer once.

MMI_FAULTS=500 pytest -m faults tests/faults
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.broker.redis.connection import CONNECTION_ERRORS
from tests.faults.client import Client, Story
from tests.faults.report import Report
from tests.faults.roles import CRASH_POINTS
from tests.faults.system import LEASE_S, Hit, System

_IN_FLIGHT = 16
_OUT = Path(__file__).resolve().parents[2] / "out" / "faults.json"


class Run:
    """One run: a load of stories, and faults thrown at random from a fixed seed."""

    def __init__(self, system: System, num_faults: int) -> None:
        self.system = system
        self.num_faults = num_faults
        self.random = random.Random(1)
        self.client = Client(system.gateways)
        self.stories: list[Story] = []
        self.counts: Counter[str] = Counter()
        self.hits: list[Hit] = []
        self._finished = asyncio.Event()

    def faults(self) -> list[tuple[int, str, Callable[[], Awaitable[Hit]]]]:
        system = self.system
        return [
            (30, "kill text worker", lambda: system.kill("text")),
            (24, "kill image worker", lambda: system.kill("image")),
            (12, "kill gateway", lambda: system.kill("gateway")),
            (6, "stall text worker", lambda: system.stall("text")),
            (4, "stall image worker", lambda: system.stall("image")),
            (3, "kill and restart redis", system.restart_redis),
            (10, "cut connections", system.cut_connections),
            (10, "duplicate delivery", system.deliver_twice),
            (4, "clock skew", system.skew_clock),
            (1, "rolling restart", system.rolling_restart),
        ]

    def story(self, number: int) -> Story:
        """A request; some name a hand-over point to die at, or make other trouble."""
        prompt, draw = f"story {number}", self.random.random()
        slow_s = 0.0
        if draw < 0.30:
            point, turn = self.random.choice(CRASH_POINTS), self.random.randrange(5)
            prompt += f" crash {point} in turn {turn}"
        elif draw < 0.34:
            prompt += " memory"
        elif draw < 0.38:
            prompt += " murder"
        elif draw < 0.40:
            prompt += " poison"
        elif draw < 0.44:
            slow_s = 0.2
        return Story(prompt, seed=number, slow_s=slow_s)

    async def load(self) -> None:
        """Keep so many requests in flight until the faults are through."""
        tasks: set[asyncio.Task[None]] = set()
        while not self._finished.is_set():
            while len(tasks) < _IN_FLIGHT:
                story = self.story(len(self.stories))
                self.stories.append(story)
                tasks.add(asyncio.create_task(self.client.tell(story)))
            _, tasks = await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*tasks)

    def noted(self) -> Counter[str]:
        """Deaths at hand-over points and the like, which happened inside of workers."""
        names = (path.name.split("-")[0] for path in self.system.notes.iterdir())
        return Counter(
            {"crash": "crash at hand-over", "oom": "out of memory", "kill": "death in a turn"}.get(
                n, n
            )
            for n in names
        )

    def total(self) -> int:
        slow = sum(story.slow_s > 0 for story in self.stories)
        poison = sum("poison" in story.prompt for story in self.stories)
        return self.counts.total() + self.noted().total() + slow + poison

    async def trouble(self) -> None:
        table = self.faults()
        await asyncio.sleep(1)
        stalls: set[asyncio.Task[None]] = set()
        while self.total() < self.num_faults:
            _, name, fault = self.random.choices(table, [weight for weight, _, _ in table])[0]
            throw = asyncio.create_task(self._throw(name, fault))
            if name.startswith("stall") and len(stalls) < 1:
                stalls.add(throw)
                throw.add_done_callback(stalls.discard)
            else:
                await throw
            await asyncio.sleep(self.random.expovariate(1 / 0.4))
        await asyncio.gather(*stalls)
        await self.system.rolling_restart()
        self.counts["rolling restart"] += 1
        self._finished.set()

    async def _throw(self, name: str, fault: Callable[[], Awaitable[Hit]]) -> None:
        try:
            self.hits.append(await fault())
        except CONNECTION_ERRORS:
            return  # another fault got in the way of this one
        self.counts[name] += 1


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_nothing_is_lost_repeated_or_reordered(tmp_path: Path) -> None:
    num_faults = int(os.environ.get("MMI_FAULTS", "500"))
    system = System(tmp_path)
    await system.start()
    run = Run(system, num_faults)
    started = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run.load())
            group.create_task(run.trouble())
    finally:
        await run.client.close()
        await system.stop()
    report = Report(lease_s=LEASE_S, seconds=round(time.monotonic() - started, 1))
    wrong = report.judge(run.stories)
    report.recover(run.hits + system.deaths, run.stories)
    counts = run.counts + run.noted()
    counts["slow reader"] = sum(story.slow_s > 0 for story in run.stories)
    counts["poison job"] = sum("poison" in story.prompt for story in run.stories)
    report.faults, report.num_faults = dict(counts), counts.total()
    report.role_restarts = system.restarts
    report.load_average = [round(load, 1) for load in os.getloadavg()]
    table = report.write(_OUT)
    print("\n" + table)  # noqa: T201 - the table is what the run is for
    assert not wrong, "\n".join(wrong)
    assert report.num_faults >= num_faults
    assert (report.lost_events, report.duplicated_events, report.reordered_events) == (0, 0, 0)
    assert report.unfinished == 0 and report.extra_terminals == 0

"""Redis Cluster: masters die under load, their replicas take over, and every answer is whole.

pytest -m faults tests/faults/test_cluster.py
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.faults.client import Client, Story
from tests.faults.cluster import NODE_TIMEOUT_MS, RedisCluster
from tests.faults.report import Report
from tests.faults.system import LEASE_S, System

_NUM_PARTITIONS = 6
_IN_FLIGHT = 12
_OUT = Path(__file__).resolve().parents[2] / "out" / "faults_cluster.json"


class Load:
    """Keeps stories in flight until it is told to end."""

    def __init__(self, system: System) -> None:
        self._client = Client(system.gateways)
        self._over = asyncio.Event()
        self.stories: list[Story] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._one_after_the_other() for _ in range(_IN_FLIGHT)))
        await self._client.close()

    async def _one_after_the_other(self) -> None:
        while not self._over.is_set():
            number = len(self.stories)
            story = Story(f"story {number}", seed=number)
            self.stories.append(story)
            await self._client.tell(story)

    async def have_finished(self, more: int) -> None:
        """Wait until so many more stories have ended."""
        aim = sum(story.done for story in self.stories) + more
        while sum(story.done for story in self.stories) < aim:
            await asyncio.sleep(0.1)

    def end(self) -> None:
        self._over.set()


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_failovers_cost_no_request(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path / "cluster")
    system = System(tmp_path, redis=cluster, num_partitions=_NUM_PARTITIONS)
    try:
        await system.start()
        load = Load(system)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for master in cluster.masters():
                await load.have_finished(_IN_FLIGHT)
                await asyncio.to_thread(cluster.fail_over, master)
            await load.have_finished(_IN_FLIGHT)
            load.end()
    finally:
        await system.stop()

    report = Report(lease_s=LEASE_S)
    wrong = report.judge(load.stories)
    document = {
        "stories": len(load.stories),
        "failovers": 3,
        "node_timeout_ms": NODE_TIMEOUT_MS,
        "wrong": len(wrong),
        "unfinished": report.unfinished,
        "resumes": report.resumes,
        "restarts": report.restarts,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(document, indent=2) + "\n")
    assert not wrong, "\n".join(wrong)
    assert len({system.broker.keys.partition(s.request_id) for s in load.stories}) > 3

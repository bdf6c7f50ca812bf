from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import cast

import httpx
import pytest

from model.engine.text.startup.follower import RankHolder
from service.config import TextWorkerSettings
from service.local.embedded_redis import free_port
from service.workers.text import follower
from service.workers.text.follower import follow


class Ranks:
    """Stands in for the ranks of a host: they run until a test ends them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started = False
        self.stopped = False
        self.ended = threading.Event()
        self.error = error

    def run(self) -> None:
        self.started = True
        self.ended.wait(60)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopped = True


class Host:
    """`follow` with ranks, and the status of its `/readyz`."""

    def __init__(self, ranks: Ranks, drain_s: float = 60.0, leader: str = "127.0.0.1:1") -> None:
        self.settings = TextWorkerSettings(
            health_port=free_port(), drain_s=drain_s, leader_address=leader
        )
        self.task = asyncio.create_task(follow(self.settings, cast(RankHolder, ranks)))

    async def ready(self) -> int:
        url = f"http://127.0.0.1:{self.settings.health_port}/readyz"
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).status_code

    async def wait_until(self, reached: Callable[[int], bool]) -> None:
        while True:
            try:
                if reached(await self.ready()):
                    return
            except httpx.TransportError:  # It does not listen yet.
                pass
            await asyncio.sleep(0.005)


async def test_a_host_whose_engine_has_ended_is_to_be_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ranks = Ranks()
    host = Host(ranks)
    await host.wait_until(lambda status: status == 200)
    ranks.ended.set()
    assert await asyncio.wait_for(host.task, 10) == 1
    assert "the engine has ended" in caplog.text
    with pytest.raises(httpx.ConnectError):
        await host.ready()


async def test_ranks_that_fail_tell_why() -> None:
    ranks = Ranks(RuntimeError("no memory"))
    ranks.ended.set()
    with pytest.raises(RuntimeError, match="no memory"):
        await asyncio.wait_for(Host(ranks).task, 10)


async def test_ranks_stay_for_the_leaders_turns_after_sigterm() -> None:
    ranks = Ranks()
    host = Host(ranks)
    await host.wait_until(lambda status: status == 200)
    os.kill(os.getpid(), signal.SIGTERM)
    await host.wait_until(lambda status: status == 503)
    assert not host.task.done() and not ranks.stopped
    ranks.ended.set()
    assert await asyncio.wait_for(host.task, 10) == 0


class Ended(Exception):
    """In place of the end of this process."""


@pytest.fixture
def no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(follower.os, "_exit", end)


@pytest.mark.usefixtures("no_exit")
async def test_ranks_that_outlive_the_drain_are_stopped() -> None:
    ranks = Ranks()
    host = Host(ranks, drain_s=0.05)
    await host.wait_until(lambda status: status == 200)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Ended, match="0"):
        await asyncio.wait_for(host.task, 10)
    assert ranks.stopped
    ranks.ended.set()


@pytest.mark.usefixtures("no_exit")
async def test_ranks_whose_leader_is_gone_are_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "_LOOK_S", 0.02)
    looks = 0

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal looks
        looks += 1
        writer.close()

    leader = await asyncio.start_server(look, "127.0.0.1", 0)
    address = f"127.0.0.1:{leader.sockets[0].getsockname()[1]}"
    ranks = Ranks()
    host = Host(ranks, leader=address)
    await host.wait_until(lambda status: status == 200 and looks > 5)
    assert not host.task.done()
    leader.close()
    await leader.wait_closed()
    with pytest.raises(Ended, match="1"):
        await asyncio.wait_for(host.task, 10)
    assert ranks.stopped
    assert f"the leader at {address} is gone" in caplog.text
    ranks.ended.set()

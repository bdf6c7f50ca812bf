"""The whole system as real processes, and everything that can be done to it."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import redis.exceptions

from service.broker.keys import GROUP, PRIORITIES
from service.broker.redis.connection import CONNECTION_ERRORS, Broker
from service.config import RedisSettings
from service.errors import ConnectionLost
from service.local.embedded_redis import EmbeddedRedis, free_port
from service.messages import decode_task
from tests.faults import roles
from tests.faults.cluster import RedisCluster
from tests.faults.engines import Speed

LEASE_S = 1.5
Hit = tuple[float, set[str]]
_COUNTS = {"text": 3, "image": 2, "gateway": 2}


class Role:
    """One process, started again whenever it ends."""

    def __init__(self, kind: str, environment: dict[str, str], log: Path, speed: Speed) -> None:
        self.kind = kind
        self.environment = environment
        self.log = log
        self.speed = speed
        self.process: ForkServerProcess | None = None
        self.skew_s = 0.0
        self.exits: Counter[int | None] = Counter()

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        arguments = (self.kind, self.environment, str(self.log), self.speed, self.skew_s)
        self.process = context.Process(target=roles.run, args=arguments, daemon=True)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process is not None and self.process.pid is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)


class System:
    """Redis, gateways and workers; a supervisor brings back what has died."""

    def __init__(
        self,
        directory: Path,
        speed: Speed | None = None,
        *,
        redis: EmbeddedRedis | RedisCluster | None = None,
        num_partitions: int = 1,
    ) -> None:
        self.directory = directory
        self.notes = directory / "notes"
        self.notes.mkdir()
        (directory / "up").mkdir()
        self.speed = speed or Speed(0.02, 0.03, str(self.notes))
        self.redis = redis or EmbeddedRedis(directory / "redis", directory / "redis.log")
        self.num_partitions = num_partitions
        self.roles: list[Role] = []
        self.gateways: list[str] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._random = random.Random(0)
        self.restarts = 0
        self.deaths: list[Hit] = []
        self._struck: set[int] = set()

    async def start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "tests.faults.roles"])
        self.redis.start()
        settings = RedisSettings(
            redis_url=self.redis.url, redis_retry_s=60, num_partitions=self.num_partitions
        )
        self.broker = Broker(settings)
        for kind, count in _COUNTS.items():
            for number in range(count):
                self.roles.append(self._role(kind, number))
        for role in self.roles:
            role.start()
        self._supervisor = asyncio.create_task(self._supervise())
        await self.wait_until_ready()

    def _role(self, kind: str, number: int) -> Role:
        port = free_port()
        environment = {
            "MMI_REDIS_URL": self.redis.url,
            "MMI_NUM_PARTITIONS": str(self.num_partitions),
            "MMI_PORT": str(port),
            "MMI_HEALTH_PORT": "0",
            "MMI_AUTH": "off",
            "MMI_ON_DISCONNECT": "continue",
            "MMI_LEASE_S": str(LEASE_S),
            "MMI_MAX_DELIVERIES": "12",
            "MMI_CONCURRENCY": "8",
            "MMI_DRAIN_S": "1",
            "MMI_MAINTENANCE_S": "1",
            "MMI_PROGRESS_INTERVAL_S": "0",
        }
        if kind == "gateway":
            self.gateways.append(f"http://127.0.0.1:{port}")
        return Role(kind, environment, self.directory / f"{kind}-{number}.log", self.speed)

    async def wait_until_ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for url in self.gateways:
                while True:
                    try:
                        if (await client.get(f"{url}/livez")).status_code == 200:
                            break
                    except httpx.HTTPError:
                        await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._supervisor:
            self._supervisor.cancel()
        for role in self.roles:
            role.signal(signal.SIGCONT)
            role.signal(signal.SIGKILL)
        await self.broker.close()
        self.redis.stop()

    async def _supervise(self) -> None:
        while True:
            for role in self.roles:
                if not role.alive():
                    assert role.process is not None
                    pid, code = role.pid, role.process.exitcode
                    role.exits[code] += 1
                    role.process.close()
                    role.start()
                    self.restarts += 1
                    if code == -signal.SIGKILL and pid not in self._struck:
                        await self._note_death(pid)
            await asyncio.sleep(0.05)

    async def _note_death(self, pid: int) -> None:
        """A worker has killed itself, at a hand-over point or in a turn: others were hit too."""
        when = time.monotonic()
        with contextlib.suppress(ConnectionLost, *CONNECTION_ERRORS):
            self.deaths.append((when, await self.held_by(pid)))

    def up(self, role: Role) -> bool:
        return role.alive() and (self.directory / "up" / str(role.pid)).exists()

    async def wait_for_spare(self, kind: str) -> None:
        """Wait until somebody else of that kind is there to take over what is about to die."""
        while sum(self.up(role) for role in self.roles if role.kind == kind) < 2:
            await asyncio.sleep(0.02)

    def pick(self, *kinds: str) -> Role:
        return self._random.choice([role for role in self.roles if role.kind in kinds])

    # --- faults: each returns when it struck, and which requests it must have hit ---

    async def held_by(self, pid: int) -> set[str]:
        """Requests whose turn a worker process holds."""
        held: set[str] = set()
        for stage in ("text", "image"):
            for priority in PRIORITIES:
                stream = self.broker.keys.tasks(stage, priority, 0)  # type: ignore[arg-type]
                pending = await self.broker.client.xpending_range(stream, GROUP, "-", "+", 100)
                for entry in pending:
                    if f"-{pid}-" in entry["consumer"].decode():
                        at = entry["message_id"]
                        found = await self.broker.call("XRANGE", stream, at, at)
                        held |= {decode_task(f[b"task"]).request_id for _, f in found}
        return held

    async def kill(self, kind: str) -> Hit:
        await self.wait_for_spare(kind)
        role = self.pick(kind)
        held = await self.held_by(role.pid)
        when = time.monotonic()
        self._struck.add(role.pid)
        role.signal(signal.SIGKILL)
        return when, held

    async def stall(self, kind: str) -> Hit:
        """Stop a worker for longer than its lease, then let it go on: it must not write."""
        await self.wait_for_spare(kind)
        role = self.pick(kind)
        held = await self.held_by(role.pid)
        pid = role.pid
        when = time.monotonic()
        role.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_S * 1.5)
        if role.alive() and role.pid == pid:
            role.signal(signal.SIGCONT)
        return when, held

    async def restart_redis(self) -> Hit:
        assert isinstance(self.redis, EmbeddedRedis)
        process = self.redis._process
        assert process is not None
        process.kill()
        process.wait()
        await asyncio.sleep(self._random.uniform(0.05, 1.0))
        await asyncio.to_thread(self.redis.start)
        return time.monotonic(), set()

    async def cut_connections(self, share: float = 0.5) -> Hit:
        for client in await self.broker.client.client_list():
            if self._random.random() < share:
                # Our own connection may be among them, or one that has gone meanwhile.
                with contextlib.suppress(*CONNECTION_ERRORS, redis.exceptions.ResponseError):
                    await self.broker.client.client_kill_filter(_id=client["id"])
        return time.monotonic(), set()

    async def deliver_twice(self) -> Hit:
        """Copy tasks that are in their stream, delivered or not."""
        for stage in ("text", "image"):
            stream = self.broker.keys.tasks(stage, "interactive", 0)  # type: ignore[arg-type]
            for _, fields in await self.broker.call("XREVRANGE", stream, "+", "-", "COUNT", 2):
                await self.broker.call("XADD", stream, "*", "task", fields[b"task"])
        return time.monotonic(), set()

    async def skew_clock(self) -> Hit:
        """Have a role come back with a clock that is wrong by up to a day."""
        role = self.pick("text", "image", "gateway")
        role.skew_s = self._random.uniform(-86_400, 86_400)
        held = await self.held_by(role.pid)
        when = time.monotonic()
        self._struck.add(role.pid)
        role.signal(signal.SIGKILL)
        return when, held

    async def rolling_restart(self) -> Hit:
        """SIGTERM every process, one after the other; each must end with status 0."""
        for role in self.roles:
            while not (self.directory / "up" / str(role.pid)).exists():
                await asyncio.sleep(0.05)
            pid, give_up = role.pid, time.monotonic() + 20
            before = role.exits.copy()
            role.signal(signal.SIGTERM)
            while role.pid == pid and time.monotonic() < give_up:
                await asyncio.sleep(0.05)
            # A hand-over point that kills may have come first.
            codes = set(role.exits - before)
            assert codes <= {0, -signal.SIGKILL} and codes, f"{role.kind} ended with {codes}"
            await asyncio.sleep(0.1)
        return time.monotonic(), set()

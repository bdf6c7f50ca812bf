"""The processes of the system under test: the real gateway, and real workers on fake engines.

Forked from a server that has everything imported, so that a role is back within milliseconds and
a suite of hundreds of deaths stays short. What is forked is what `mmi <role>` runs, except for the
engine, and for `CrashingLeases`: it dies at a hand-over point that a prompt names.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from service import loop
from service.broker.redis.connection import Broker
from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings
from service.gateway import server
from service.telemetry import log
from service.workers.base import Worker
from service.workers.image.worker import ImageTurns
from service.workers.process import consumer_name, end_on_signal
from service.workers.text.worker import TextTurns
from tests.faults.engines import FakeImageEngine, FakeTextEngine, Speed, once

CRASH_POINTS = (
    "begin-before",
    "begin-after",
    "append-before",
    "append-after",
    "commit-before",
    "commit-after",
)
_CRASH = re.compile(r"crash (\S+) in turn (\d+)")


def _is_due(attempt_prompt: str, point: str, turn: int) -> bool:
    found = _CRASH.search(attempt_prompt)
    return bool(found) and found[1] == point and int(found[2]) == turn


class CrashingLeases(Leases):
    """Leases of a process that dies at the point that a request's prompt names, once."""

    notes = ""

    def _die(self, request_id: str, prompt: str, point: str, turn: int) -> None:
        if _is_due(prompt, point, turn) and once(self.notes, f"crash-{request_id}"):
            os.kill(os.getpid(), signal.SIGKILL)

    async def _prompt(self, request_id: str) -> str:
        record = await self._broker.call("HGET", self._keys.request(request_id), "request")
        return (record or b"").decode()

    async def begin(self, delivery: Delivery) -> Attempt | None:
        prompt, turn = await self._prompt(delivery.request_id), delivery.task().turn
        self._die(delivery.request_id, prompt, "begin-before", turn)
        attempt = await super().begin(delivery)
        self._die(delivery.request_id, prompt, "begin-after", turn)
        return attempt

    def _die_of(self, attempt: Attempt, point: str) -> None:
        prompt = attempt.request.content[0].text  # type: ignore[union-attr]
        self._die(attempt.request_id, prompt, point, attempt.task.turn)

    async def append(self, attempt: Attempt, *arguments: Any, **fields: Any) -> None:
        self._die_of(attempt, "append-before")
        await super().append(attempt, *arguments, **fields)
        self._die_of(attempt, "append-after")

    async def commit(self, attempt: Attempt, *arguments: Any, **fields: Any) -> None:
        self._die_of(attempt, "commit-before")
        await super().commit(attempt, *arguments, **fields)
        self._die_of(attempt, "commit-after")


def run(kind: str, environment: dict[str, str], log_path: str, speed: Speed, skew_s: float) -> None:
    """The process of one role."""
    os.environ.update(environment)
    output = Path(log_path).open("ab")  # noqa: SIM115 - it is this process's stderr from here on
    os.dup2(output.fileno(), sys.stderr.fileno())
    os.dup2(output.fileno(), sys.stdout.fileno())
    if skew_s:
        real = time.time
        time.time = lambda: real() + skew_s
    end_on_signal()
    Path(log_path).parent.joinpath("up", str(os.getpid())).touch()
    log.configure(kind, "WARNING")
    if kind == "gateway":
        settings = GatewaySettings()
        listener = socket.create_server((settings.host, settings.port))
        sys.exit(server.run(settings, listener))
    sys.exit(loop.run(_work(kind, speed)))


async def _work(kind: str, speed: Speed) -> int:
    """A worker, put together as its own `create` does."""
    settings = TextWorkerSettings() if kind == "text" else ImageWorkerSettings()
    broker = Broker(settings)
    CrashingLeases.notes = speed.notes
    leases = CrashingLeases(
        broker,
        "text" if kind == "text" else "image",
        consumer_name(),
        settings.lease_s,
        settings.max_deliveries,
    )
    turns: TextTurns | ImageTurns
    if isinstance(settings, TextWorkerSettings):
        turns = TextTurns(FakeTextEngine(speed), leases, broker)
    else:
        turns = ImageTurns(FakeImageEngine(speed), leases, broker, settings.progress_interval_s)
    return await Worker(settings, broker, leases, turns).run()

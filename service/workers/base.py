"""What both workers do: claim a task, run its turn, commit it; and stop without losing anything.

claim ──> begin ──> run (by the stage) ──> commit
   │        │         │
   │        │         ├── lease lost, request cancelled ──> stop
   │        │         ├── deadline ───────────────────────> response.incomplete
   │        │         ├── permanent error ────────────────> response.failed
   │        │         └── any other error ────────────────> nack, retry; dead letter in the end
   │        └── delivered too often ──> dead letter, response.failed
   └── SIGTERM: claim no more, finish turns, nack those left, exit 0
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any, Protocol

from service.broker.connection import Broker, cancel_all
from service.broker.stream.endings import follow_endings
from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import WorkerSettings
from service.errors import BrokerError, DecodeError
from service.log import request_id_var
from service.messages import Stage
from service.metrics import ACTIVE_TURNS, READY, TURN_SECONDS, TURN_WAIT_SECONDS, TURNS
from service.workers.health import HealthServer
from service.workers.turns.claims import Claims
from service.workers.turns.heartbeat import Heartbeat
from service.workers.turns.outcomes import Outcomes

logger = logging.getLogger(__name__)

_BROKER_WAIT_S = 3600.0


class Turns(Protocol):
    """The work of one stage."""

    stage: Stage

    async def start(self) -> None:
        """Start the engine."""
        ...

    async def announce(self) -> None:
        """Store what gateways must know of the engine."""
        ...

    async def run(self, attempt: Attempt) -> None:
        """Run the turn and commit it."""
        ...

    async def stop(self) -> None:
        """Stop the engine, started or not."""
        ...


class Worker:
    """One process of a stage."""

    def __init__(
        self, settings: WorkerSettings, broker: Broker, leases: Leases, turns: Turns
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._queue = Queue(broker)
        self._leases = leases
        self._turns = turns
        self._stage: Stage = turns.stage
        self._active: dict[Delivery, asyncio.Task[None]] = {}
        # Deliveries that are not this worker's any more, or whose outcome is being handled.
        self._released: set[Delivery] = set()
        self._draining = asyncio.Event()
        self._claims = Claims(
            *(settings, self._queue, leases, self._draining),
            free=self._free,
            begin=self._begin_all,
        )
        self._step = "starting"
        self._outcomes = Outcomes(self._queue, leases)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heartbeat = Heartbeat(
            settings, leases.consumer, settings.lease_s / 3, self._lost_from_thread
        )
        self._health = HealthServer(settings.health_host, settings.health_port, self._ready)

    async def run(self) -> int:
        """Start, work until SIGTERM, and stop; returns the process's exit code.

        Whatever fails, everything that was started is stopped, in reverse order.
        """
        try:
            async with AsyncExitStack() as started:
                await self._startup(started)
                await self._main_loop()
        except Exception as error:
            logger.critical(
                "%s worker failed while %s: %s: %s",
                *(self._stage, self._step, type(error).__name__, error.__cause__ or error),
                exc_info=error,
            )
            return 1
        return 1 if self._outcomes.broken else 0

    def drain(self) -> None:
        """Claim no more tasks; `run` returns once the turns in progress are finished or nacked."""
        self._draining.set()

    async def _startup(self, started: AsyncExitStack) -> None:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain)
        started.push_async_callback(self._broker.close)
        self._step = "opening its health port"
        await self._health.start()
        started.push_async_callback(self._health.stop)
        logger.info("health on port %d", self._health.port)
        self._step = "starting its engine"
        # Registered before: an engine whose start fails must free what it has.
        started.push_async_callback(self._turns.stop)
        await self._turns.start()
        self._step = "waiting for redis"
        await self._unless_draining(self._reach_broker())
        self._heartbeat.start()
        started.push_async_callback(asyncio.to_thread, self._heartbeat.stop)

    async def _reach_broker(self) -> None:
        await self._broker.call("PING", retry_s=_BROKER_WAIT_S)
        await self._queue.create_groups()
        await self._turns.announce()

    async def _unless_draining(self, step: Coroutine[Any, Any, None]) -> None:
        """Run a step of the startup, or cancel it when this worker is asked to stop."""
        running = asyncio.create_task(step)
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({running, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all([running, draining])
        if not running.cancelled():
            running.result()

    async def _main_loop(self) -> None:
        self._step = "working"
        claims = self._claims.start(self._broker.keys.num_partitions)
        others = [
            asyncio.create_task(self._watch_endings(), name="endings"),
            asyncio.create_task(self._maintain(), name="maintain"),
            asyncio.create_task(self._draining.wait(), name="draining"),
        ]
        READY.set(1)
        logger.info("ready as %s", self._leases.consumer)
        try:
            # All of these run until this worker drains; if one fails, it drains too.
            await asyncio.wait([*claims, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            READY.set(0)
            self.drain()
            await asyncio.gather(*claims, return_exceptions=True)
            await self._finish_turns()
            await cancel_all(others)
        for task in (*claims, *others):
            if not task.cancelled():
                task.result()

    async def _finish_turns(self) -> None:
        """Let the turns in progress finish within the grace period, then nack those left."""
        logger.info("draining %d turns", len(self._active))
        if self._active:
            await asyncio.wait(self._active.values(), timeout=self._settings.drain_s)
        for task in list(self._active.values()):
            task.cancel()
        if self._active:
            await asyncio.wait(self._active.values())

    async def _ready(self) -> bool:
        if self._step != "working" or self._draining.is_set():
            return False
        return await self._broker.ping()

    # --- running turns ---

    def _free(self) -> int:
        return self._settings.concurrency - len(self._active)

    def _begin_all(self, claimed: list[Delivery]) -> None:
        for delivery in claimed:
            if delivery in self._active:
                continue  # its lease expired, but this worker reclaimed it and still runs it
            self._heartbeat.hold(delivery)
            task = self._active[delivery] = asyncio.create_task(self._run_turn(delivery))
            # Not inside the task: one that is cancelled before its first step never runs.
            task.add_done_callback(functools.partial(self._finished, delivery))
        ACTIVE_TURNS.labels(self._stage).set(len(self._active))

    async def _run_turn(self, delivery: Delivery) -> None:
        request_id_var.set(delivery.request_id)
        started, outcome = time.monotonic(), "committed"
        attempt: Attempt | None = None
        try:
            attempt = await self._leases.begin(delivery)
            if attempt is not None:
                self._observe_wait(delivery)
                self._heartbeat.hold(delivery, attempt.fence)
                await self._turns.run(attempt)
            self._outcomes.succeeded()
        except asyncio.CancelledError:
            ours = delivery not in self._released
            self._released.add(delivery)
            outcome = await self._outcomes.after_cancel(delivery, attempt, ours=ours)
        except Exception as error:
            # Engines raise anything; no turn may end the worker.
            # Released first, so that ending the request does not cancel this task.
            self._released.add(delivery)
            outcome = await self._outcomes.after_error(delivery, attempt, error)
            if self._outcomes.broken:
                logger.error("too many requests failed in a row: this worker stops")
                self.drain()
        finally:
            TURNS.labels(self._stage, outcome).inc()
            TURN_SECONDS.labels(self._stage).observe(time.monotonic() - started)

    def _finished(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """Stop renewing the lease; if the task was not acked, it can be reclaimed later."""
        self._heartbeat.drop(delivery)
        self._active.pop(delivery, None)
        self._released.discard(delivery)
        self._claims.room.set()
        ACTIVE_TURNS.labels(self._stage).set(len(self._active))

    def _observe_wait(self, delivery: Delivery) -> None:
        waited_s = time.time() - delivery.enqueued_ms / 1000
        TURN_WAIT_SECONDS.labels(self._stage).observe(max(0.0, waited_s))

    # --- stopping turns that this worker has lost ---

    def _lost_from_thread(self, delivery: Delivery) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._abandon, delivery)

    def _abandon(self, delivery: Delivery) -> None:
        """Stop a turn that another worker holds, or whose request has ended."""
        if (task := self._active.get(delivery)) and delivery not in self._released:
            self._released.add(delivery)
            task.cancel()

    async def _watch_endings(self) -> None:
        """Stop turns at once when their request is ended from outside."""
        endings = follow_endings(self._broker)
        async with aclosing(endings):  # type: ignore[type-var]
            async for request_id in endings:
                for delivery in [d for d in self._active if d.request_id == request_id]:
                    self._abandon(delivery)

    async def _maintain(self) -> None:
        """Periodically end requests whose deadline has passed and delete acknowledged entries."""
        while True:
            await asyncio.sleep(self._settings.maintenance_s)
            try:
                await self._queue.expire_due()
                await self._leases.trim()
            except (BrokerError, DecodeError) as error:
                logger.warning("maintenance failed: %s", type(error).__name__)


def end_on_signal() -> None:
    """Have SIGTERM end the process at once, until `Worker.run` handles it: no task is held yet."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))


def consumer_name() -> str:
    """A name that is unique among all processes, past ones included."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

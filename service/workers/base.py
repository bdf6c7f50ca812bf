"""What both workers do: claim a task, run its turn, commit it; and stop without losing anything.

claim ──> begin ──> run (by the stage) ──> commit
   │        │         │
   │        │         ├── lease lost, request cancelled ──> stop
   │        │         ├── deadline ───────────────────────> response.incomplete
   │        │         ├── permanent error ────────────────> response.failed
   │        │         ├── engine died or hangs ───────────> nack, untried; the worker exits
   │        │         └── any other error ────────────────> nack, retry; dead letter in the end
   │        └── delivered too often ──> dead letter, response.failed
   └── SIGTERM: claim no more, finish turns, nack those left, exit 0
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any, Protocol

from model.engine.protocol import Engine, EngineDied
from service.broker.redis.connection import Broker, cancel_all
from service.broker.redis.server import require_suitable_server
from service.broker.stream.endings import follow_endings
from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import WorkerSettings
from service.errors import BrokerError, DecodeError
from service.messages import Stage
from service.telemetry import tracing
from service.telemetry.health import HealthServer
from service.telemetry.metrics import ACTIVE_TURNS, READY
from service.workers.deletion_cost import DeletionCost
from service.workers.process import exit_within
from service.workers.turns.claims import Claims
from service.workers.turns.heartbeat import Heartbeat
from service.workers.turns.outcomes import COMMITTED, Outcomes
from service.workers.turns.report import TurnReport
from service.workers.watchdog import Watchdog

logger = logging.getLogger(__name__)

_BROKER_WAIT_S = 3600.0
# The time that a worker whose engine has died takes at most to hand back its turns and exit.
_LAST_ACTS_S = 20.0


class Turns(Protocol):
    """The work of one stage."""

    stage: Stage

    @property
    def engine(self) -> Engine:
        """The engine that the worker starts, watches and stops."""
        ...

    async def announce(self) -> None:
        """Store what gateways must know of the engine."""
        ...

    async def run(self, attempt: Attempt) -> None:
        """Run the turn and commit it."""
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
        self._watchdog = Watchdog(turns.engine, settings.stall_s)
        self._engine_died = False
        self._health = HealthServer(
            *(settings.health_host, settings.health_port),
            live=lambda: self._step != "working" or self._watchdog.live,
            ready=self._ready,
        )

    async def run(self) -> int:
        """Start, work until SIGTERM, and stop; returns the process's exit code.

        Whatever fails, everything that was started is stopped, in reverse order.
        """
        tracing.configure(f"{self._stage}-worker", self._settings.otlp_endpoint)
        try:
            async with AsyncExitStack() as started:
                started.callback(tracing.stop)
                await self._startup(started)
                await self._main_loop()
        except Exception as error:
            logger.critical(
                "%s worker failed while %s: %s: %s",
                *(self._stage, self._step, type(error).__name__, error.__cause__ or error),
                exc_info=error,
            )
            return 1
        return 1 if self._outcomes.broken or self._engine_died else 0

    def drain(self) -> None:
        """Claim no more tasks; `run` returns once the turns in progress are finished or nacked."""
        self._draining.set()

    async def _startup(self, started: AsyncExitStack) -> None:
        self._loop = asyncio.get_running_loop()
        started.push_async_callback(self._broker.close)
        self._step = "opening its health port"
        await self._health.start()
        started.push_async_callback(self._health.stop)
        logger.info("health on port %d", self._health.port)
        self._step = "starting its engine"
        # Registered before: an engine whose start fails must free what it has.
        started.push_async_callback(self._turns.engine.stop)
        await self._turns.engine.start()
        for number in (signal.SIGTERM, signal.SIGINT):  # Before, they end the process at once.
            self._loop.add_signal_handler(number, self.drain)
        self._step = "waiting for redis"
        await self._unless_draining(self._reach_broker())
        self._heartbeat.start()
        started.push_async_callback(asyncio.to_thread, self._heartbeat.stop)

    async def _reach_broker(self) -> None:
        await require_suitable_server(self._broker, retry_s=_BROKER_WAIT_S)
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
            asyncio.create_task(self._watch_engine(), name="watchdog"),
            asyncio.create_task(self._draining.wait(), name="draining"),
        ]
        cost = DeletionCost(self._settings, lambda: len(self._active))
        telling = asyncio.create_task(cost.keep_told(), name="deletion cost")
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
            await cancel_all([*others, telling])
        for task in (*claims, *others):
            if not task.cancelled():
                task.result()

    async def _finish_turns(self) -> None:
        """Let the turns in progress finish within the grace period, then nack those left."""
        logger.info("draining %d turns", len(self._active))
        if self._active and not self._engine_died:
            await asyncio.wait(self._active.values(), timeout=self._settings.drain_s)
        for task in list(self._active.values()):
            task.cancel()
        if self._active:
            await asyncio.wait(self._active.values())

    async def _ready(self) -> bool:
        if self._step != "working" or self._draining.is_set():
            return False
        return self._watchdog.ready and await self._broker.ping()

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
        report, outcome = TurnReport(self._stage, delivery), COMMITTED
        attempt: Attempt | None = None
        try:
            attempt = await self._leases.begin(delivery)
            if attempt is not None:
                report.begun(attempt)
                self._heartbeat.hold(delivery, attempt.fence)
                await self._turns.run(attempt)
            self._outcomes.succeeded()
        except asyncio.CancelledError:
            ours = delivery not in self._released
            self._released.add(delivery)
            if ours and self._engine_died:
                outcome = await self._outcomes.after_engine_died(delivery, attempt)
            else:
                outcome = await self._outcomes.after_cancel(delivery, attempt, ours=ours)
        except EngineDied as error:
            # Claim nothing more first: this worker must not reclaim what it hands back.
            self._lose_engine(error)
            self._released.add(delivery)
            outcome = await self._outcomes.after_engine_died(delivery, attempt)
        except Exception as error:
            # Engines raise anything; no turn may end the worker.
            # Released first, so that ending the request does not cancel this task.
            self._released.add(delivery)
            outcome = await self._outcomes.after_error(delivery, attempt, error)
            if self._outcomes.broken:
                logger.error("too many requests failed in a row: this worker stops")
                self.drain()
        finally:
            report.ended(outcome)

    def _finished(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """Stop renewing the lease; if the task was not acked, it can be reclaimed later."""
        self._heartbeat.drop(delivery)
        self._active.pop(delivery, None)
        self._released.discard(delivery)
        self._claims.room.set()
        ACTIVE_TURNS.labels(self._stage).set(len(self._active))

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

    async def _watch_engine(self) -> None:
        try:
            await self._watchdog.watch()
        except EngineDied as error:
            self._lose_engine(error)

    def _lose_engine(self, error: EngineDied) -> None:
        """Hand back all turns and exit, so that a supervisor starts this worker again."""
        if not self._engine_died:
            self._engine_died = True
            logger.critical("this worker hands back its turns and exits: %s", error)
            exit_within(_LAST_ACTS_S)
            self.drain()

    async def _maintain(self) -> None:
        """Periodically end requests whose deadline has passed and delete acknowledged entries."""
        while True:
            await asyncio.sleep(self._settings.maintenance_s)
            try:
                await self._queue.expire_due()
                await self._leases.trim()
            except (BrokerError, DecodeError) as error:
                logger.warning("maintenance failed: %s", type(error).__name__)

"""What both workers do: take a task, run its turn, commit; and stop without losing anything.

consume ──> begin ──> run (the stage's own) ──> commit
   │          │         │
   │          │         ├── lease lost, cancelled ──> stop without a word
   │          │         ├── deadline ───────────────> response.incomplete
   │          │         ├── permanent ──────────────> response.failed
   │          │         └── anything else ──────────> hand back, run again, at last dead letter
   │          └── delivered too often ──> dead letter, response.failed
   └── SIGTERM: take no more, finish, hand back what is left, exit 0
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
from typing import Protocol

import redis.exceptions

from service.broker.connection import RETRIED, Broker, cancel_all, connect
from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import WorkerSettings
from service.errors import BrokerError, DecodeError
from service.log import request_id_var
from service.messages import Stage
from service.metrics import ACTIVE_TURNS, READY, TURN_SECONDS, TURN_WAIT_SECONDS, TURNS
from service.workers.health import HealthServer
from service.workers.heartbeat import Heartbeat
from service.workers.outcomes import Outcomes

logger = logging.getLogger(__name__)

_BLOCK_MS = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Turns(Protocol):
    """One stage's work."""

    stage: Stage

    async def start(self) -> None:
        """Load what is needed."""
        ...

    async def run(self, attempt: Attempt) -> None:
        """Run the turn and commit it."""
        ...

    async def stop(self) -> None:
        """Free what is held."""
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
        self._lost: set[Delivery] = set()
        self._draining = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._started = False
        self._outcomes = Outcomes(self._queue, leases)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heartbeat = Heartbeat(
            settings, leases.consumer, settings.lease_s / 3, self._lost_from_thread
        )
        self._health = HealthServer(settings.health_host, settings.health_port, self._ready)

    async def run(self) -> int:
        """Work until SIGTERM; returns the process's exit code."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain)
        await self._health.start()
        logger.info("health on port %d", self._health.port)
        await self._turns.start()
        await self._broker.call("PING", retry_s=3600)
        await self._queue.create_groups()
        self._heartbeat.start()
        loops = [asyncio.create_task(self._watch_cancelled(), name="cancelled")]
        loops += [asyncio.create_task(self._maintain(), name="maintain")]
        partitions = range(self._broker.keys.num_partitions)
        consumers = [asyncio.create_task(self._consume(p), name=f"consume-{p}") for p in partitions]
        consumers.append(asyncio.create_task(self._reclaim(), name="reclaim"))
        self._started = True
        READY.set(1)
        logger.info("ready as %s", self._leases.consumer)
        await self._draining.wait()
        await self._drain(consumers)
        await cancel_all(loops)
        await asyncio.to_thread(self._heartbeat.stop)
        await self._turns.stop()
        await self._health.stop()
        await self._broker.close()
        return 1 if self._outcomes.broken else 0

    def drain(self) -> None:
        """Stop taking work; `run` returns once nothing is held any more."""
        self._draining.set()

    async def _drain(self, consumers: list[asyncio.Task[None]]) -> None:
        """Take no more, finish, hand back what is left."""
        READY.set(0)
        logger.info("draining %d turns", len(self._active))
        await asyncio.gather(*consumers, return_exceptions=True)
        if self._active:
            await asyncio.wait(self._active.values(), timeout=self._settings.drain_s)
        for task in list(self._active.values()):
            task.cancel()
        if self._active:
            await asyncio.wait(self._active.values())

    async def _ready(self) -> bool:
        if not self._started or self._draining.is_set():
            return False
        return await self._broker.ping()

    # --- taking tasks ---

    def _free(self) -> int:
        return self._settings.concurrency - len(self._active)

    async def _consume(self, partition: int) -> None:
        """Take new tasks of a partition whenever there is room."""
        look, pause_s = 0, _FIRST_PAUSE_S
        while not self._draining.is_set():
            if not await self._wait_for_room():
                continue
            look += 1
            batch_first = look % self._settings.batch_weight == 0
            try:
                taken = await self._leases.claim(partition, self._free(), batch_first, _BLOCK_MS)
                pause_s = _FIRST_PAUSE_S
            except (*RETRIED, redis.exceptions.ResponseError) as error:
                await self._recover(error, pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
                continue
            self._begin_all(taken)
            # Beginning comes before looking for more.
            await asyncio.sleep(0)

    async def _wait_for_room(self) -> bool:
        """Wait until a turn may begin; False if there is still no room after a while."""
        if self._free() <= 0:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), _BLOCK_MS / 1000)
            except TimeoutError:
                return False
        return self._free() > 0 and not self._draining.is_set()

    async def _recover(self, error: Exception, pause_s: float) -> None:
        """After a failed look at the queue: make the groups again if Redis has lost them."""
        logger.warning("cannot take tasks: %s", type(error).__name__)
        await asyncio.sleep(pause_s)
        if isinstance(error, redis.exceptions.ResponseError):
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise error
            try:
                await self._queue.create_groups()
            except BrokerError:
                logger.warning("cannot make the groups")

    async def _reclaim(self) -> None:
        """Take over, whenever there is room, what silent workers hold."""
        period_s = min(1.0, self._settings.lease_s / 4)
        while not self._draining.is_set():
            try:
                if self._free() > 0:
                    self._begin_all(await self._leases.reclaim(self._free()))
            except BrokerError:
                logger.warning("cannot take over tasks")
            except redis.exceptions.ResponseError as error:
                await self._recover(error, period_s)
            try:
                await asyncio.wait_for(self._draining.wait(), period_s)
            except TimeoutError:
                continue

    def _begin_all(self, taken: list[Delivery]) -> None:
        for delivery in taken:
            if delivery in self._active:
                continue  # its lease ran out, but it came back to us while we still run it
            self._heartbeat.hold(delivery)
            task = self._active[delivery] = asyncio.create_task(self._run_turn(delivery))
            # Not in the task itself: one that is cancelled before its first step never runs.
            task.add_done_callback(functools.partial(self._finished, delivery))
        ACTIVE_TURNS.labels(self._stage).set(len(self._active))

    # --- running a turn ---

    async def _run_turn(self, delivery: Delivery) -> None:
        """Run one delivered task to whatever end it comes to."""
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
            ours = delivery not in self._lost
            self._lost.add(delivery)
            outcome = await self._outcomes.after_cancel(delivery, attempt, ours=ours)
        except Exception as error:
            # The one job boundary: engines raise anything; the turn is handed back or ended.
            self._lost.add(delivery)  # the end of the request must not cut its own telling short
            outcome = await self._outcomes.after_error(delivery, attempt, error)
            if self._outcomes.broken:
                logger.error("too many requests failed in a row: leaving")
                self._draining.set()
        finally:
            TURNS.labels(self._stage, outcome).inc()
            TURN_SECONDS.labels(self._stage).observe(time.monotonic() - started)

    def _finished(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """Let go of a task; if it is not settled, its lease runs out."""
        self._heartbeat.drop(delivery)
        self._active.pop(delivery, None)
        self._lost.discard(delivery)
        self._room.set()
        ACTIVE_TURNS.labels(self._stage).set(len(self._active))

    def _observe_wait(self, delivery: Delivery) -> None:
        waited_s = time.time() - delivery.enqueued_ms / 1000
        TURN_WAIT_SECONDS.labels(self._stage).observe(max(0.0, waited_s))

    # --- stopping turns that are no longer ours ---

    def _lost_from_thread(self, delivery: Delivery) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._abandon, delivery)

    def _abandon(self, delivery: Delivery) -> None:
        """Stop a turn that somebody else holds, or that nobody wants."""
        if (task := self._active.get(delivery)) and delivery not in self._lost:
            self._lost.add(delivery)
            task.cancel()

    async def _watch_cancelled(self) -> None:
        """Stop turns at once when their request ends from outside.

        Only a shortcut: every append and every heartbeat would find out as well.
        """
        client = connect(self._settings, read_timeout_s=3600)
        channels = [self._broker.keys.load(p) for p in range(self._broker.keys.num_partitions)]
        while True:
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(*channels)
                    async for message in pubsub.listen():
                        ended = message["data"].decode()
                        for delivery in [d for d in self._active if d.request_id == ended]:
                            self._abandon(delivery)
            except RETRIED:
                await asyncio.sleep(0.5)

    async def _maintain(self) -> None:
        """Now and then: end what is past its deadline, trim what is done."""
        while True:
            await asyncio.sleep(self._settings.maintenance_s)
            try:
                await self._queue.expire_due()
                await self._leases.trim()
            except (BrokerError, DecodeError):
                logger.warning("no maintenance: redis is away")


def end_on_signal() -> None:
    """Until `Worker.run` takes over, SIGTERM simply ends the process: it holds nothing yet."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))


def consumer_name() -> str:
    """A name that no other process has, in this run or another."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

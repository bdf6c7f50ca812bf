"""Renews the leases of running turns, in a thread that a long engine step cannot block."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from service.broker.keys import GROUP
from service.broker.redis.connection import Broker
from service.broker.turns.attempt import Delivery
from service.config import RedisSettings
from service.errors import BrokerError

logger = logging.getLogger(__name__)


class Heartbeat:
    """Renews the leases of held tasks; calls `on_lost`, in its thread, for those that are lost."""

    def __init__(
        self,
        settings: RedisSettings,
        consumer: str,
        interval_s: float,
        on_lost: Callable[[Delivery], None],
    ) -> None:
        self._settings = settings
        self._consumer = consumer
        self._interval_s = interval_s
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._held: dict[Delivery, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping.set()
        self._thread.join()

    def hold(self, delivery: Delivery, fence: str = "") -> None:
        """Renew this task's lease from now on; with a fence, as long as its attempt is current."""
        with self._lock:
            self._held[delivery] = fence

    def drop(self, delivery: Delivery) -> None:
        """Stop renewing this task's lease."""
        with self._lock:
            self._held.pop(delivery, None)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        broker = Broker(self._settings)
        while not self._stopping.is_set():
            try:
                await self.beat(broker)
            except BrokerError as error:
                logger.warning("heartbeat failed: %s", error.__cause__)
            # Blocks this thread's loop, in which nothing else runs.
            self._stopping.wait(self._interval_s)
        await broker.close()

    async def beat(self, broker: Broker) -> None:
        """Renew all leases once, with one call per stream."""
        with self._lock:
            held = dict(self._held)
        by_stream: defaultdict[str, list[Delivery]] = defaultdict(list)
        for delivery in held:
            by_stream[delivery.stream].append(delivery)
        for stream, deliveries in by_stream.items():
            kept = await broker.script(
                "renew",
                [stream, *(_record(broker, delivery) for delivery in deliveries)],
                *(GROUP, self._consumer),
                *(item for d in deliveries for item in (d.entry_id, held[d])),
                retry_s=self._interval_s,
            )
            for delivery, is_kept in zip(deliveries, kept, strict=True):
                if not is_kept and self._still_held(delivery, held[delivery]):
                    self._on_lost(delivery)

    def _still_held(self, delivery: Delivery, fence: str) -> bool:
        """Whether the task is still held with this fence, after the call to Redis."""
        with self._lock:
            return self._held.get(delivery) == fence


def _record(broker: Broker, delivery: Delivery) -> str:
    """Key of the request's record; the stream's if the task could not be decoded."""
    return broker.keys.request(delivery.request_id) if delivery.request_id else delivery.stream

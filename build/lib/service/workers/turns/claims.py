"""Claims tasks for a worker: new ones, and those of workers that went silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.broker.turns.attempt import Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import WorkerSettings
from service.errors import BrokerError, GroupMissing

logger = logging.getLogger(__name__)

_BLOCK_MS = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Claims:
    """Claims tasks whenever a turn can begin, until the worker drains.

    Args:
        settings: of the worker.
        queue: creates the groups again if Redis has lost them.
        leases: claims tasks.
        draining: set when the worker claims no more.
        free: number of turns that can begin.
        begin: begins the turns of claimed tasks.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        queue: Queue,
        leases: Leases,
        draining: asyncio.Event,
        *,
        free: Callable[[], int],
        begin: Callable[[list[Delivery]], None],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._leases = leases
        self._draining = draining
        self._free = free
        self._begin = begin
        # Set by the worker whenever a turn has finished.
        self.room = asyncio.Event()

    def start(self, num_partitions: int) -> list[asyncio.Task[None]]:
        """Start claiming; the tasks end after `draining` is set."""
        return [
            *(asyncio.create_task(self._consume(p)) for p in range(num_partitions)),
            asyncio.create_task(self._reclaim()),
        ]

    async def _consume(self, partition: int) -> None:
        """Claim new tasks of a partition whenever a turn can begin."""
        num_claims, pause_s = 0, _FIRST_PAUSE_S
        while not self._draining.is_set():
            if not await self._wait_for_room():
                continue
            num_claims += 1
            batch_first = num_claims % self._settings.batch_weight == 0
            try:
                claimed = await self._leases.claim(partition, self._free(), batch_first, _BLOCK_MS)
                pause_s = _FIRST_PAUSE_S
            except BrokerError as error:
                await self._recover(error, pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
                continue
            self._begin(claimed)
            # Let the turns begin before the next claim.
            await asyncio.sleep(0)

    async def _wait_for_room(self) -> bool:
        """Wait until a turn can begin; False if none can after a while."""
        if self._free() <= 0:
            self.room.clear()
            try:
                await asyncio.wait_for(self.room.wait(), _BLOCK_MS / 1000)
            except TimeoutError:
                return False
        return self._free() > 0 and not self._draining.is_set()

    async def _recover(self, error: BrokerError, pause_s: float) -> None:
        """Pause after a failed claim; create the groups again if Redis has lost them."""
        logger.warning("cannot claim tasks: %s", error.__cause__)
        await asyncio.sleep(pause_s)
        if isinstance(error, GroupMissing):
            try:
                await self._queue.create_groups()
            except BrokerError:
                logger.warning("cannot create the groups")

    async def _reclaim(self) -> None:
        """Reclaim the tasks of silent workers whenever a turn can begin."""
        period_s = min(1.0, self._settings.lease_s / 4)
        while not self._draining.is_set():
            try:
                if self._free() > 0:
                    self._begin(await self._leases.reclaim(self._free()))
            except BrokerError as error:
                await self._recover(error, period_s)
            try:
                await asyncio.wait_for(self._draining.wait(), period_s)
            except TimeoutError:
                continue

"""Batches the appends of all turns of a process.

At most one command per partition is in flight. An append is sent at once if none is, else together
with all others that arrived meanwhile as soon as the reply is there. No append waits for a timer,
and an engine step that yields a token for every turn costs one round trip.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.broker.redis.connection import Broker

# Bounds the time for which one command blocks Redis.
_MOST_AT_ONCE = 128


@dataclass
class _Append:
    """One turn's append, waiting or in flight."""

    keys: Sequence[str]
    arguments: Sequence[str | int]
    reply: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Appends:
    """Sends appends, many in one command; those to a partition at least `interval_s` apart."""

    def __init__(self, broker: Broker, interval_s: float = 0.0) -> None:
        self._broker = broker
        self._interval_s = interval_s
        self._waiting: defaultdict[int, deque[_Append]] = defaultdict(deque)
        self._senders: dict[int, asyncio.Task[None]] = {}

    async def send(
        self, partition: int, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> list[Any]:
        """Run `append.lua` for one turn; returns its reply to this turn.

        Args:
            partition: of the request.
            keys: its record and its event stream.
            arguments: of the script, for this turn.

        Raises:
            ConnectionLost: Redis was unreachable; the append may have been executed.
        """
        append = _Append(keys, arguments)
        self._waiting[partition].append(append)
        if partition not in self._senders:
            self._senders[partition] = asyncio.create_task(self._send_waiting(partition))
        return await append.reply

    async def _send_waiting(self, partition: int) -> None:
        waiting = self._waiting[partition]
        try:
            while waiting:
                # Let turns join that the same engine step, or the last reply, has woken.
                await asyncio.sleep(0)
                batch = [waiting.popleft() for _ in range(min(len(waiting), _MOST_AT_ONCE))]
                await self._send(batch)
                if self._interval_s:
                    await asyncio.sleep(self._interval_s)
                await asyncio.sleep(0)
        finally:
            del self._senders[partition]

    async def _send(self, batch: list[_Append]) -> None:
        """Send one command, and pass its replies or its failure to the turns in it."""
        keys = [key for append in batch for key in append.keys]
        arguments = [item for append in batch for item in append.arguments]
        call = asyncio.create_task(self._broker.script("append", keys, *arguments))
        await asyncio.wait([call])
        failure = call.exception()
        for number, append in enumerate(batch):
            if append.reply.done():
                continue  # its turn was cancelled
            if failure is not None:
                append.reply.set_exception(failure)
            else:
                append.reply.set_result(call.result()[number])

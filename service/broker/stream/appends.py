"""Appends to event streams, of all turns of a process together.

At most one command is on its way per partition. Whoever has something to say says it at once if
none is, and together with all others as soon as the last one has come back: nobody waits for a
timer, and a step of the engine that gave every turn a token costs one round trip.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.broker.connection import Broker

# Bounds how long one command may keep Redis from everything else.
_MOST_AT_ONCE = 128


@dataclass
class _Append:
    """One turn's append, on its way."""

    keys: Sequence[str]
    arguments: Sequence[str | int]
    reply: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Appends:
    """Sends appends, many in one command."""

    def __init__(self, broker: Broker, interval_s: float = 0.0) -> None:
        """Prepare; commands to a partition are sent at least `interval_s` apart."""
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
            keys: its record and its events.
            arguments: what the script takes for one turn.

        Raises:
            ConnectionLost: Redis stayed away for too long; it may have been done all the same.
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
                # Let those join in whom the same step of the engine, or the last reply, has woken.
                await asyncio.sleep(0)
                batch = [waiting.popleft() for _ in range(min(len(waiting), _MOST_AT_ONCE))]
                await self._send(batch)
                if self._interval_s:
                    await asyncio.sleep(self._interval_s)
                await asyncio.sleep(0)
        finally:
            del self._senders[partition]

    async def _send(self, batch: list[_Append]) -> None:
        """Send one command, and hand its replies, or its failure, to everybody in it."""
        keys = [key for append in batch for key in append.keys]
        arguments = [item for append in batch for item in append.arguments]
        call = asyncio.create_task(self._broker.script("append", keys, *arguments))
        await asyncio.wait([call])
        failure = call.exception()
        for number, append in enumerate(batch):
            if append.reply.done():
                continue  # a turn that was stopped no longer waits
            if failure is not None:
                append.reply.set_exception(failure)
            else:
                append.reply.set_result(call.result()[number])

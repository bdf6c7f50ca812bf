"""Tasks as workers see them: take, begin, append, commit, hand back, take over from the dead.

Delivery is at least once; what makes a turn happen exactly once is its fence. `begin` gives an
attempt a fence, every write names it, and the scripts refuse any other: whoever was stopped for
longer than its lease finds out at its next write.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence

import redis.exceptions

from service.broker.connection import Broker
from service.broker.keys import GROUP, PRIORITIES
from service.broker.stream.appends import Appends
from service.broker.stream.record import fields_of, flatten, parse_status
from service.broker.turns.attempt import Attempt, Delivery
from service.errors import DeadlineExceeded, DecodeError, Poisoned, Retryable, StaleAttempt
from service.messages import (
    TERMINAL_STATES,
    Event,
    ImageTask,
    Stage,
    State,
    TextTask,
)
from service.metrics import APPEND_SECONDS, DEAD_LETTERS, FINISHED, RECLAIMED

logger = logging.getLogger(__name__)

_MOST_DEAD_LETTERS = 10_000


class Leases:
    """One consumer's dealings with the task streams of its stage."""

    def __init__(
        self,
        broker: Broker,
        stage: Stage,
        consumer: str,
        lease_s: float,
        max_deliveries: int,
        flush_interval_s: float = 0.0,
    ) -> None:
        self._broker = broker
        self._keys = broker.keys
        self._appends = Appends(broker, flush_interval_s)
        self.stage: Stage = stage
        self.consumer = consumer
        self.lease_ms = int(lease_s * 1000)
        self.max_deliveries = max_deliveries
        # Partitions in which more may wait than was taken: there, priorities matter.
        self._crowded = set(range(broker.keys.num_partitions))

    async def claim(
        self, partition: int, count: int, batch_first: bool = False, block_ms: int = 0
    ) -> list[Delivery]:
        """Up to `count` new tasks of a partition, interactive ones first unless `batch_first`.

        Args:
            partition: where to look.
            count: most tasks.
            batch_first: look at the batch stream first this time.
            block_ms: wait this long for one, if there is none; 0 does not wait.
        """
        streams = [self._keys.tasks(self.stage, p, partition) for p in PRIORITIES]
        taken: list[Delivery] = []
        if not block_ms or partition in self._crowded:
            for stream in reversed(streams) if batch_first else streams:
                if len(taken) < count:
                    taken += await self._read([stream], partition, count - len(taken))
            if taken or not block_ms:
                return taken
        # Nothing waited at the last look: the order does not matter, and one command will do.
        most = max(1, count // len(streams))
        taken = await self._read(streams, partition, most, block_ms)
        if len(taken) >= most:
            self._crowded.add(partition)
        else:
            self._crowded.discard(partition)
        return taken

    async def _read(
        self, streams: Sequence[str], partition: int, count: int, block_ms: int = 0
    ) -> list[Delivery]:
        block = ("BLOCK", block_ms) if block_ms else ()
        command = ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", count, *block, "STREAMS")
        # Not repeated when the connection is lost: what was delivered by then is taken over later.
        reply = await self._broker.once(*command, *streams, *[">"] * len(streams))
        return [
            Delivery(stream.decode(), partition, entry_id.decode(), fields.get(b"task", b""))
            for stream, entries in reply or ()
            for entry_id, fields in entries
        ]

    async def reclaim(self, count: int) -> list[Delivery]:
        """Tasks whose worker has been silent for longer than the lease, or has handed them back."""
        taken: list[Delivery] = []
        for partition in range(self._keys.num_partitions):
            for priority in PRIORITIES:
                if len(taken) >= count:
                    break
                stream = self._keys.tasks(self.stage, priority, partition)
                reply = await self._broker.call(
                    *("XAUTOCLAIM", stream, GROUP, self.consumer, self.lease_ms, "0"),
                    *("COUNT", count - len(taken)),
                )
                taken += [
                    Delivery(stream, partition, entry_id.decode(), fields.get(b"task", b""))
                    for entry_id, fields in reply[1]
                    if fields is not None
                ]
        RECLAIMED.labels(self.stage).inc(len(taken))
        return taken

    async def begin(self, delivery: Delivery) -> Attempt | None:
        """Begin an attempt; None when there is nothing to do, because the turn is over.

        Raises:
            DecodeError: the task is none of this version, or its record is broken.
            Poisoned: it was delivered too often.
            DeadlineExceeded: too late to begin.
            StaleAttempt: another consumer has taken it over since.
        """
        task = delivery.task()
        if task.type != self.stage:
            raise DecodeError("a task of the other stage")
        reply = await self._broker.script(
            "begin",
            [self._keys.request(task.request_id), delivery.stream],
            *(GROUP, self.consumer, delivery.entry_id, task.turn),
            *(secrets.token_hex(6), self.max_deliveries),
        )
        match reply[0]:
            case b"done":
                return None
            case b"poison":
                raise Poisoned
            case b"late":
                raise DeadlineExceeded
            case b"lost":
                raise StaleAttempt
        fields = fields_of(reply[4])
        return Attempt(
            delivery=delivery,
            task=task,
            fence=reply[1].decode(),
            deadline=time.monotonic() + int(reply[2]) / 1000,
            deliveries=int(reply[3]),
            status=parse_status(fields),
            fields=fields,
            first_number=int(fields["seq"]),
        )

    async def append(
        self, attempt: Attempt, events: Sequence[tuple[Event, str]], **fields: str | int
    ) -> None:
        """Append events (each with the token ids behind it, or "") and set fields of the record.

        Raises:
            StaleAttempt: the turn is somebody else's by now, or the request has ended.
            Retryable: the record is broken.
        """
        started, number = time.monotonic(), attempt.next_number
        attempt.log.extend(events)
        request_id = attempt.request_id
        while True:
            reply = await self._appends.send(
                self._keys.partition(request_id),
                (self._keys.request(request_id), self._keys.events(request_id)),
                (
                    *(attempt.fence, number, 2 * len(fields), *_pairs(fields)),
                    *flatten(attempt.log[number - attempt.first_number :], attempt.choice),
                ),
            )
            if reply[0] != b"gap":
                break
            number = self._rewind(attempt, int(reply[1]))
        APPEND_SECONDS.observe(time.monotonic() - started)
        if reply[0] == b"stale":
            raise StaleAttempt
        if reply[0] == b"error":
            raise Retryable

    def _rewind(self, attempt: Attempt, number: int) -> int:
        """Redis lost events from `number` on: say again what of them was ours."""
        logger.warning("redis has lost events from number %d on", number)
        if number < attempt.first_number:
            raise StaleAttempt
        return number

    async def commit(
        self,
        attempt: Attempt,
        events: Sequence[tuple[Event, str]],
        *,
        next_task: TextTask | ImageTask | None = None,
        state: State | None = None,
        text_work: int = 0,
        image_work: int = 0,
        fields: Mapping[str, str | int],
    ) -> None:
        """End the turn: with the next task, or in a terminal state.

        Raises:
            StaleAttempt: the turn is somebody else's by now, or the request has ended.
        """
        keys, settings, request_id = self._keys, self._broker.settings, attempt.request_id
        partition, request = keys.partition(request_id), attempt.status.request
        next_stage = next_task.type if next_task else self.stage
        number = attempt.next_number
        attempt.log.extend(events)
        while True:
            reply = await self._broker.script(
                "commit",
                [
                    keys.request(request_id),
                    keys.events(request_id),
                    attempt.delivery.stream,
                    keys.tasks(next_stage, request.priority, partition),
                    keys.load(partition),
                    keys.deadlines(partition),
                ],
                *(attempt.fence, number, len(attempt.log) + attempt.first_number - number),
                *(request_id, GROUP, attempt.delivery.entry_id),
                *(next_task.encode() if next_task else "", state or "", text_work, image_work),
                *(settings.request_ttl_s, settings.event_ttl_s),
                *flatten(attempt.log[number - attempt.first_number :], attempt.choice)[1:],
                *_pairs(fields),
            )
            if reply[0] != b"gap":
                break
            number = self._rewind(attempt, int(reply[1]))
        if reply[0] == b"stale":
            raise StaleAttempt
        if state:
            FINISHED.labels(state).inc()
            await self._broker.call("ZREM", keys.running(request.owner), request_id)

    async def nack(
        self, delivery: Delivery, fence: str = "", pause_s: float = 0.0, untried: bool = False
    ) -> None:
        """Let somebody else take the task after `pause_s`.

        Args:
            delivery: the task.
            fence: of the attempt, if it has begun.
            pause_s: how long nobody should take it.
            untried: whether this delivery shall not count as one.
        """
        known = delivery.request_id
        await self._broker.script(
            "nack",
            [delivery.stream, self._keys.request(known) if known else delivery.stream],
            *(GROUP, self.consumer, delivery.entry_id, fence),
            *(self.lease_ms, int(pause_s * 1000), int(untried)),
        )

    async def dead_letter(self, delivery: Delivery, reason: str, deliveries: int = 0) -> None:
        """Move a task to the dead letters."""
        DEAD_LETTERS.labels(self.stage).inc()
        await self._broker.script(
            "dead_letter",
            [delivery.stream, self._keys.dead(delivery.partition)],
            *(GROUP, delivery.entry_id, reason, deliveries, _MOST_DEAD_LETTERS),
        )

    async def ack(self, delivery: Delivery) -> None:
        """Let go of a task whose request has ended."""
        await self._broker.call("XACK", delivery.stream, GROUP, delivery.entry_id)

    async def ack_if_ended(self, delivery: Delivery) -> None:
        """Let go of a task if its request has ended; otherwise it belongs to somebody else."""
        state = await self._broker.call("HGET", self._keys.request(delivery.request_id), "state")
        if state is None or state.decode() in TERMINAL_STATES:
            await self.ack(delivery)

    async def trim(self) -> int:
        """Drop what is delivered and acknowledged; returns the number of entries."""
        dropped = 0
        for stream in self._keys.all_tasks(self.stage):
            try:
                reply = await self._broker.script("trim", [stream], GROUP, 20 * self.lease_ms)
            except redis.exceptions.ResponseError:
                logger.exception("cannot trim %s", stream)
                continue
            dropped += int(reply[0])
        return dropped


def _pairs(fields: Mapping[str, str | int]) -> list[str | int]:
    return [item for pair in fields.items() for item in pair]

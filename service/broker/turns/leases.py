"""Tasks as workers see them: claim, begin, append, commit, ack, nack, reclaim, dead-letter.

Delivery is at least once; a turn takes effect exactly once because of its fence. `begin` gives an
attempt a new fence, every write names it, and the scripts refuse any other. A worker that was
stopped for longer than its lease is refused at its next write.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from service.broker.keys import GROUP, PRIORITIES
from service.broker.redis.connection import Broker
from service.broker.stream.appends import Appends
from service.broker.stream.record import fields_of, flatten, parse_status
from service.broker.turns.attempt import Attempt, Delivery
from service.errors import (
    CommandRefused,
    DeadlineExceeded,
    DecodeError,
    Poisoned,
    Retryable,
    StaleAttempt,
)
from service.messages import TERMINAL_STATES, Event, ImageTask, Stage, State, TextTask
from service.telemetry.metrics import (
    APPEND_SECONDS,
    DEAD_LETTERS,
    FINISHED,
    RECLAIMED,
    TURN_WAIT_SECONDS,
    start_at_zero,
)

logger = logging.getLogger(__name__)

_MOST_DEAD_LETTERS = 10_000


class Leases:
    """The task streams of one stage, as one consumer uses them."""

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
        for metric in (DEAD_LETTERS, RECLAIMED, TURN_WAIT_SECONDS):
            start_at_zero(metric, [stage])
        self.stage: Stage = stage
        self.consumer = consumer
        self.lease_ms = int(lease_s * 1000)
        self.max_deliveries = max_deliveries
        # Partitions in which more tasks may be queued than the last claim returned.
        self._crowded = set(range(broker.keys.num_partitions))

    async def claim(
        self, partition: int, count: int, batch_first: bool = False, block_ms: int = 0
    ) -> list[Delivery]:
        """Claim up to `count` new tasks of a partition, interactive ones first.

        Args:
            partition: its number.
            count: most tasks.
            batch_first: read the batch stream first.
            block_ms: how long to wait for a task; 0 does not wait.

        Raises:
            ConnectionLost: tasks that were delivered before are reclaimed when their lease expires.
            GroupMissing: Redis has lost the consumer group.
        """
        streams = [self._keys.tasks(self.stage, p, partition) for p in PRIORITIES]
        claimed: list[Delivery] = []
        if not block_ms or partition in self._crowded:
            for stream in reversed(streams) if batch_first else streams:
                if len(claimed) < count:
                    claimed += await self._read([stream], partition, count - len(claimed))
            if claimed or not block_ms:
                return claimed
        # The streams were empty at the last claim, so one command can wait for both.
        most = max(1, count // len(streams))
        claimed = await self._read(streams, partition, most, block_ms)
        if len(claimed) >= most:
            self._crowded.add(partition)
        else:
            self._crowded.discard(partition)
        return claimed

    async def _read(
        self, streams: Sequence[str], partition: int, count: int, block_ms: int = 0
    ) -> list[Delivery]:
        block = ("BLOCK", block_ms) if block_ms else ()
        command = ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", count, *block, "STREAMS")
        # Not safe to repeat: a task delivered in a lost reply is reclaimed later.
        reply = await self._broker.call_once(*command, *streams, *[">"] * len(streams))
        found = (_deliveries(name.decode(), partition, entries) for name, entries in reply or ())
        return list(chain.from_iterable(found))

    async def reclaim(self, count: int) -> list[Delivery]:
        """Claim up to `count` tasks whose lease has expired or that were nacked."""
        claimed: list[Delivery] = []
        for partition in range(self._keys.num_partitions):
            for priority in PRIORITIES:
                if len(claimed) >= count:
                    break
                stream = self._keys.tasks(self.stage, priority, partition)
                reply = await self._broker.call(
                    *("XAUTOCLAIM", stream, GROUP, self.consumer, self.lease_ms, "0"),
                    *("COUNT", count - len(claimed)),
                )
                claimed += _deliveries(stream, partition, reply[1])
        RECLAIMED.labels(self.stage).inc(len(claimed))
        return claimed

    async def begin(self, delivery: Delivery) -> Attempt | None:
        """Begin an attempt; returns None if the turn is over.

        Raises:
            DecodeError: the task or the request's record is not of this version.
            Poisoned: the task was delivered too often.
            DeadlineExceeded: the request's deadline has passed.
            StaleAttempt: another consumer has reclaimed the task.
        """
        task = delivery.task()
        if task.type != self.stage:
            raise DecodeError("a task of another stage")
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
            status=parse_status(task.request_id, fields, fields.get("request", reply[5])),
            fields=fields,
            first_number=int(fields["seq"]),
        )

    async def append(
        self, attempt: Attempt, events: Sequence[tuple[Event, str]], **fields: str | int
    ) -> None:
        """Append events, each with its token ids or "", and set fields of the record.

        Raises:
            StaleAttempt: another attempt holds the turn, or the request has ended.
            Retryable: the record is malformed.
        """
        started, number = time.monotonic(), attempt.next_number
        attempt.log.extend(events)
        request_id = attempt.request_id
        while True:
            reply = await self._appends.send(
                self._keys.partition(request_id),
                (self._keys.request(request_id), self._keys.events(request_id)),
                (
                    *(attempt.fence, number, 2 * len(fields), *chain.from_iterable(fields.items())),
                    *flatten(attempt.log[number - attempt.first_number :], attempt.choice),
                ),
            )
            if reply[0] != b"gap":
                break
            number = self._rewind(attempt, int(reply[1]))
        seconds = time.monotonic() - started
        APPEND_SECONDS.observe(seconds)
        attempt.appends.add(seconds)
        if reply[0] == b"stale":
            raise StaleAttempt
        if reply[0] == b"error":
            raise Retryable

    def _rewind(self, attempt: Attempt, number: int) -> int:
        """The number of the first lost event; stale if it is an earlier attempt's."""
        logger.warning("redis has lost the events from number %d on", number)
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
        """End the turn, with the next task or in a terminal state.

        Raises:
            StaleAttempt: another attempt holds the turn, or the request has ended.
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
                *chain.from_iterable(fields.items()),
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
        self,
        delivery: Delivery,
        fence: str = "",
        pause_s: float = 0.0,
        untried: bool = False,
        most_untried: int = 0,
    ) -> None:
        """Give a task back unfinished, for any worker to reclaim.

        Args:
            delivery: the task.
            fence: of the attempt, if begun.
            pause_s: time before it can be reclaimed.
            untried: do not count this delivery as a try.
            most_untried: how often that is done in one turn; 0 is always.
        """
        request_id = delivery.request_id
        await self._broker.script(
            "nack",
            [delivery.stream, self._keys.request(request_id) if request_id else delivery.stream],
            *(GROUP, self.consumer, delivery.entry_id, fence),
            *(self.lease_ms, int(pause_s * 1000), int(untried), most_untried),
        )

    async def dead_letter(self, delivery: Delivery, reason: str, deliveries: int = 0) -> None:
        """Move a task to the dead letters."""
        DEAD_LETTERS.labels(self.stage).inc()
        await self._broker.script(
            "dead_letter",
            [delivery.stream, self._keys.dead_letters(delivery.partition)],
            *(GROUP, delivery.entry_id, reason, deliveries, _MOST_DEAD_LETTERS),
        )

    async def ack(self, delivery: Delivery) -> None:
        await self._broker.call("XACK", delivery.stream, GROUP, delivery.entry_id)

    async def ack_if_ended(self, delivery: Delivery) -> None:
        """Ack a task if its request has ended; otherwise another worker holds it."""
        state = await self._broker.call("HGET", self._keys.request(delivery.request_id), "state")
        if state is None or state.decode() in TERMINAL_STATES:
            await self.ack(delivery)

    async def trim(self) -> int:
        """Delete acknowledged entries of the task streams; returns their number."""
        num_entries = 0
        for stream in self._keys.all_tasks(self.stage):
            try:
                reply = await self._broker.script("trim", [stream], GROUP, 20 * self.lease_ms)
            except CommandRefused:
                logger.exception("cannot trim %s", stream)
                continue
            num_entries += int(reply[0])
        return num_entries


def _deliveries(stream: str, partition: int, entries: Sequence[Any]) -> list[Delivery]:
    return [
        Delivery(stream, partition, entry_id.decode(), fields.get(b"task", b""))
        for entry_id, fields in entries
        if fields is not None  # deleted while it was pending
    ]

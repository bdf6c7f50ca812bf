"""The queue as its clients see it: enqueue, look up, cancel; and its maintenance.

The keys are listed in `service.broker.keys`; every transition is a script in `service/broker/lua`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import cast

from service.broker.owners import IdempotencyKey, OwnerLimits, Owners
from service.broker.redis.connection import Broker
from service.broker.stream.record import fields_of, flatten, parse_status
from service.errors import QueueFull, RequestNotFound, ServiceError, StaleAttempt
from service.messages import (
    TERMINAL_STATES,
    ErrorEvent,
    Event,
    Request,
    RequestStatus,
    ResponseCancelled,
    ResponseFailed,
    ResponseIncomplete,
    Stage,
    State,
    StoredFailure,
    TextTask,
    Usage,
    UsageEvent,
    choice_of,
)
from service.telemetry.metrics import FINISHED, QUEUED_WORK, REQUESTS, start_at_zero

_DRAIN_WINDOW_S = 60.0
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 1.0, 120.0


@dataclass(frozen=True)
class Enqueued:
    """An accepted request; `created` is False if its idempotency key was used before."""

    request_id: str
    created: bool


@dataclass(frozen=True)
class Load:
    """Reserved work of all partitions, and the rate at which it is done."""

    active_requests: int
    text_work: int
    image_work: int
    text_per_s: float
    image_per_s: float


class Queue:
    """Enqueues, looks up and ends requests."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._keys = broker.keys
        self._owners = Owners(broker)
        start_at_zero(FINISHED, sorted(TERMINAL_STATES))

    async def create_groups(self) -> None:
        """Create all task streams and their consumer groups, unless they exist."""
        for stream in (*self._keys.all_tasks("text"), *self._keys.all_tasks("image")):
            await self._broker.create_group(stream)

    async def enqueue(
        self,
        request: Request,
        limits: OwnerLimits | None = None,
        idempotency_key: IdempotencyKey | None = None,
        retry_s: float = 2.0,
    ) -> Enqueued:
        """Enqueue a request: once accepted, it reaches exactly one terminal event.

        Args:
            request: its images must be in the blob store.
            limits: of its owner.
            idempotency_key: a later request of this owner with the same key is the first one.
            retry_s: how long to try to reach Redis.

        Raises:
            QueueFull: a stage has too much reserved work.
            RateLimited, TooManyConcurrent: the owner's limits.
            IdempotencyConflict: the idempotency key was used with another body.
            ConnectionLost: Redis was unreachable for `retry_s`.
        """
        known = await self._owners.acquire(
            request, limits or OwnerLimits(), idempotency_key, retry_s
        )
        if known:
            # If a gateway died after storing the key and before the record, this stores the record.
            request = request.model_copy(update={"request_id": known})
        outcome = await self._enqueue(request, retry_s)
        if outcome[0] == b"full":
            await self._owners.release(request, None if known else idempotency_key)
            REQUESTS.labels("queue_full").inc()
            raise QueueFull(_retry_after_s(float(outcome[2]), float(outcome[3])))
        if self._broker.settings.wait_aof:
            await self._broker.wait_until_on_disk()
        REQUESTS.labels("repeated" if known else "accepted").inc()
        return Enqueued(request.request_id, created=not known)

    async def _enqueue(self, request: Request, retry_s: float) -> list[bytes]:
        keys, settings, request_id = self._keys, self._broker.settings, request.request_id
        partition = keys.partition(request_id)
        share = (settings.batch_share if request.priority == "batch" else 1) / keys.num_partitions
        answers = request.choices or (request,)
        return await self._broker.script(
            "enqueue",
            [
                keys.request(request_id),
                keys.events(request_id),
                keys.tasks("text", request.priority, partition),
                keys.load(partition),
                keys.deadlines(partition),
                *(keys.request(choice.request_id) for choice in request.choices),
            ],
            json.dumps(
                {
                    "owner": request.owner,
                    "deadline_ms": request.deadline_ms,
                    "ttl_s": request.deadline_ms // 1000 + settings.request_ttl_s,
                    "work": {"text": request.text_work, "image": request.image_work},
                    "bounds": {
                        "text": int(settings.max_text_work * share),
                        "image": int(settings.max_image_work * share),
                        "active": int(settings.max_active_requests * share),
                    },
                    "answers": [
                        {"id": one.request_id, "task": _first_task(one).encode()} for one in answers
                    ],
                }
            ),
            request.encode(),
            retry_s=retry_s,
        )

    async def status(self, request_id: str) -> RequestStatus:
        """The status of a request, with its choices if it has several answers.

        Raises:
            RequestNotFound: the request does not exist or has expired.
        """
        fields = await self._fields(request_id)
        document = fields.get("request")
        if document is None:  # a choice, whose request is stored in the record of its group
            document = await self._broker.call("HGET", fields["group"], "request")
        status = parse_status(request_id, fields, document)
        if "choices" not in fields:
            return status
        ids = [f"{request_id}.{number}" for number in range(int(fields["choices"]))]
        choices = [parse_status(one, await self._fields(one), document) for one in ids]
        return status.with_choices(tuple(choices))

    async def _fields(self, request_id: str) -> dict[str, bytes]:
        reply = await self._broker.call("HGETALL", self._keys.request(request_id))
        if not reply:
            raise RequestNotFound
        return fields_of(reply)

    async def cancel(self, request_id: str) -> State:
        """Cancel a request, queued or running; returns its state afterwards.

        Raises:
            RequestNotFound: the request does not exist or has expired.
        """
        count = await self._broker.call("HGET", self._keys.request(request_id), "choices")
        if not count:
            return await self.end(request_id, "cancelled", ResponseCancelled())
        for number in range(int(count)):
            await self.end(f"{request_id}.{number}", "cancelled", ResponseCancelled())
        state = await self._broker.call("HGET", self._keys.request(request_id), "state")
        return cast(State, state.decode())

    async def fail(self, request_id: str, error: ServiceError, fence: str = "") -> State:
        """End a request as failed; with `fence`, only if that attempt still holds it.

        Raises:
            RequestNotFound, StaleAttempt: see `end`.
        """
        stored = StoredFailure(
            type=error.type,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            status=error.status,
        )
        failure = stored.failure
        return await self.end(
            request_id,
            "failed",
            ErrorEvent(error=failure),
            ResponseFailed(error=failure),
            fence=fence,
            error=stored.encode(),
        )

    async def expire(self, request_id: str) -> State:
        """End a request whose deadline has passed.

        Raises:
            RequestNotFound: see `end`.
        """
        event = ResponseIncomplete(reason="deadline")
        return await self.end(request_id, "incomplete", event, reason="deadline")

    async def end(
        self, request_id: str, state: State, *events: Event, fence: str = "", **fields: str
    ) -> State:
        """End a request from outside of a turn, unless it has ended; returns its state afterwards.

        Raises:
            RequestNotFound: the request does not exist or has expired.
            StaleAttempt: another attempt than that of `fence` holds it.
        """
        keys, settings = self._keys, self._broker.settings
        known = await self._broker.call(
            "HMGET", keys.request(request_id), "owner", "usage", "streamed"
        )
        usage = Usage.decode(known[1] or b"{}")
        tokens = usage.output_tokens + int(known[2] or 0)
        bill = UsageEvent(**usage.model_dump() | {"output_tokens": tokens})
        partition = keys.partition(request_id)
        reply = await self._broker.script(
            "end",
            [
                keys.request(request_id),
                keys.events(request_id),
                keys.load(partition),
                keys.deadlines(partition),
            ],
            *(request_id, state, fence, settings.request_ttl_s, settings.event_ttl_s),
            *flatten([(event, "") for event in (bill, *events)], choice_of(request_id)),
            *(item for pair in fields.items() for item in pair),
        )
        match reply[0]:
            case b"missing":
                raise RequestNotFound
            case b"stale":
                raise StaleAttempt
            case b"ended":
                return cast(State, reply[1].decode())
        FINISHED.labels(state).inc()
        await self._owners.free_slots(known[0].decode(), request_id)
        return state

    async def expire_due(self) -> int:
        """End all requests whose deadline has passed; returns how many. Any process may do this."""
        ended = 0
        for partition in range(self._keys.num_partitions):
            key = self._keys.deadlines(partition)
            for request_id in await self._broker.script("due", [key], 100):
                try:
                    await self.expire(request_id.decode())
                    ended += 1
                except RequestNotFound:
                    continue
        return ended

    async def load(self) -> Load:
        """Reserved work and drain rates of all partitions; also sets the metric."""
        active, work, rate = 0, dict.fromkeys(("text", "image"), 0), {"text": 0.0, "image": 0.0}
        for partition in range(self._keys.num_partitions):
            fields = fields_of(await self._broker.call("HGETALL", self._keys.load(partition)))
            active += int(fields.get("active", 0))
            for stage in work:
                work[stage] += int(fields.get(f"{stage}:work", 0))
                age_s = time.time() - float(fields.get(f"{stage}:at", 0)) / 1000
                fresh = math.exp(-max(0.0, age_s) / _DRAIN_WINDOW_S)
                rate[stage] += float(fields.get(f"{stage}:rate", 0)) * fresh
        for stage, amount in work.items():
            QUEUED_WORK.labels(stage).set(amount)
        return Load(active, work["text"], work["image"], rate["text"], rate["image"])

    async def depth(self, stage: Stage) -> tuple[int, int]:
        """Numbers of tasks of a stage that are (queued, running), in all partitions."""
        waiting = running = 0
        for stream in self._keys.all_tasks(stage):
            for group in await self._broker.call("XINFO", "GROUPS", stream):
                fields = fields_of(group)
                waiting += int(fields["lag"] or 0)
                running += int(fields["pending"])
        return waiting, running


def _first_task(request: Request) -> TextTask:
    return TextTask(request_id=request.request_id, turn=0, traceparent=request.traceparent)


def _retry_after_s(excess: float, drained_per_s: float) -> float:
    """The time until `excess` work is done at the measured rate, between bounds."""
    if drained_per_s <= 0:
        return _LONGEST_RETRY_S / 4
    return min(max(excess / drained_per_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

"""The queue as its clients see it: accept, look up, cancel; and what keeps it in order.

The keys are named in `service.broker.keys`, the transitions are the scripts in
`service/broker/lua`. Workers claim and commit tasks through `service.broker.turns.leases`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import cast

import redis.exceptions

from service.broker.connection import Broker
from service.broker.durability import wait_until_on_disk
from service.broker.keys import GROUP
from service.broker.owners import IdempotencyKey, OwnerLimits, Owners
from service.broker.stream.record import fields_of, flatten, parse_status
from service.errors import QueueFull, RequestNotFound, ServiceError
from service.messages import (
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
from service.metrics import FINISHED, QUEUED_WORK, REQUESTS

_DRAIN_WINDOW_S = 60.0
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 1.0, 120.0


@dataclass(frozen=True)
class Enqueued:
    """An accepted request. `created` is False when the idempotency key had it already."""

    request_id: str
    created: bool


@dataclass(frozen=True)
class Load:
    """Reserved work of all partitions, and how fast it drains."""

    active_requests: int
    text_work: int
    image_work: int
    text_per_s: float
    image_per_s: float


class Queue:
    """Accepts, looks up and ends requests."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._keys = broker.keys
        self._owners = Owners(broker)

    async def create_groups(self) -> None:
        """Create all streams and groups, from the first entry on; harmless when they exist."""
        for stream in (*self._keys.all_tasks("text"), *self._keys.all_tasks("image")):
            try:
                await self._broker.call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
            except redis.exceptions.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def enqueue(
        self,
        request: Request,
        limits: OwnerLimits | None = None,
        idempotency_key: IdempotencyKey | None = None,
        retry_s: float = 2.0,
    ) -> Enqueued:
        """Accept a request: from here on it reaches exactly one terminal event.

        Args:
            request: what to do; its content's images lie in the blob store already.
            limits: of its owner.
            idempotency_key: a later request of this owner with the same key is the first one.
            retry_s: how long to try to reach Redis.

        Raises:
            QueueFull: the stages have no room for its work.
            RateLimited, TooManyConcurrent: the owner's limits.
            IdempotencyConflict: the idempotency key was used with another body.
            ConnectionLost: Redis is away.
        """
        known = await self._owners.acquire(
            request, limits or OwnerLimits(), idempotency_key, retry_s
        )
        if known:
            # Should the first one have died between its key and its record, this one takes over.
            request = request.model_copy(update={"request_id": known})
        outcome = await self._enqueue(request, retry_s)
        if outcome[0] == b"full":
            await self._owners.release(request, None if known else idempotency_key)
            REQUESTS.labels("queue_full").inc()
            raise QueueFull(_retry_after_s(float(outcome[2]), float(outcome[3])))
        if self._broker.settings.wait_aof:
            await wait_until_on_disk(self._broker)
        REQUESTS.labels("repeated" if known else "accepted").inc()
        return Enqueued(request.request_id, created=not known)

    async def _enqueue(self, request: Request, retry_s: float) -> list[bytes]:
        keys, settings, request_id = self._keys, self._broker.settings, request.request_id
        partition = keys.partition(request_id)
        share = (settings.batch_share if request.priority == "batch" else 1) / keys.num_partitions
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
            *(request_id, request.encode(), request.owner, request.deadline_ms),
            request.deadline_ms // 1000 + settings.request_ttl_s,
            *(request.text_work, request.image_work),
            int(settings.max_text_work * share),
            int(settings.max_image_work * share),
            int(settings.max_active_requests * share),
            *(item for one in request.choices or (request,) for item in _opening(one)),
            retry_s=retry_s,
        )

    async def status(self, request_id: str) -> RequestStatus:
        """What is known of a request.

        Raises:
            RequestNotFound: there is no such request (any more).
        """
        reply = await self._broker.call("HGETALL", self._keys.request(request_id))
        if not reply:
            raise RequestNotFound
        fields = fields_of(reply)
        status = parse_status(fields)
        if "choices" in fields:
            ids = (f"{request_id}.{number}" for number in range(int(fields["choices"])))
            status = status.with_choices(tuple([await self.status(one) for one in ids]))
        return status

    async def cancel(self, request_id: str) -> State:
        """End a request as cancelled, queued or running; returns the state that it is in then.

        Raises:
            RequestNotFound: there is no such request (any more).
        """
        count = await self._broker.call("HGET", self._keys.request(request_id), "choices")
        if not count:
            return await self.end(request_id, "cancelled", ResponseCancelled())
        for number in range(int(count)):
            await self.end(f"{request_id}.{number}", "cancelled", ResponseCancelled())
        state = await self._broker.call("HGET", self._keys.request(request_id), "state")
        return cast(State, state.decode())

    async def fail(self, request_id: str, error: ServiceError, fence: str = "") -> State:
        """End a request as failed; with `fence`, only if that attempt still holds it."""
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
        """End a request because its deadline passed."""
        event = ResponseIncomplete(reason="deadline")
        return await self.end(request_id, "incomplete", event, reason="deadline")

    async def end(
        self, request_id: str, state: State, *events: Event, fence: str = "", **fields: str
    ) -> State:
        """End a request from outside of a turn; one that has ended stays as it is.

        Raises:
            RequestNotFound: there is no such request (any more).
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
        if reply[0] == b"missing":
            raise RequestNotFound
        if reply[0] == b"ended":
            return reply[1].decode()  # type: ignore[no-any-return]
        if reply[0] == b"ok":
            FINISHED.labels(state).inc()
            await self._owners.free_slots(known[0].decode(), request_id)
            return state
        return "running"

    async def expire_due(self) -> int:
        """End all requests whose deadline passed; any process may do this at any time."""
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
        """Reserved work and drain rates of all partitions."""
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
        """Tasks of a stage that (wait, are being run)."""
        waiting = running = 0
        for stream in self._keys.all_tasks(stage):
            for group in await self._broker.call("XINFO", "GROUPS", stream):
                fields = fields_of(group)
                waiting += int(fields["lag"] or 0)
                running += int(fields["pending"])
        return waiting, running


def _opening(request: Request) -> tuple[str, str, str]:
    """What `admit` needs of a request or choice: its id, the document, its first task."""
    task = TextTask(request_id=request.request_id, turn=0, traceparent=request.traceparent)
    return request.request_id, request.encode(), task.encode()


def _retry_after_s(excess: float, drained_per_s: float) -> float:
    """When `excess` work will have drained at the measured rate."""
    if drained_per_s <= 0:
        return _LONGEST_RETRY_S / 4
    return min(max(excess / drained_per_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

"""Limits and idempotency keys of owners (API keys), in Redis so that all gateways apply them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.broker.redis.connection import Broker
from service.errors import IdempotencyConflict, RateLimited, TooManyConcurrent
from service.messages import TERMINAL_STATES, Request
from service.telemetry.metrics import REQUESTS

_CONCURRENT_RETRY_S = 1.0
_SLOT_GRACE_MS = 60_000


@dataclass(frozen=True)
class OwnerLimits:
    """Limits of one owner; 0 means no limit."""

    max_concurrent: int = 0
    requests_per_minute: int = 0
    burst: int = 10


@dataclass(frozen=True)
class IdempotencyKey:
    """An idempotency key and the hash of the body sent with it; neither may contain spaces."""

    key: str
    fingerprint: str


class Owners:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._keys = broker.keys

    async def acquire(
        self,
        request: Request,
        limits: OwnerLimits,
        idempotency_key: IdempotencyKey | None,
        retry_s: float,
    ) -> str | None:
        """Take a slot for each answer of a request.

        Returns:
            The id of the earlier request with the same idempotency key, if there is one.

        Raises:
            RateLimited, TooManyConcurrent: the owner's limits.
            IdempotencyConflict: the key was used with another body.
        """
        if idempotency_key is None and not limits.max_concurrent and not limits.requests_per_minute:
            return None
        for last in (False, True):
            reply = await self._try(request, limits, idempotency_key, retry_s)
            match reply[0]:
                case b"ok":
                    return None
                case b"exists":
                    return reply[1].decode()
                case b"conflict":
                    raise IdempotencyConflict
                case b"rate":
                    REQUESTS.labels("rate_limited").inc()
                    raise RateLimited(int(reply[1]) / 1000)
            # Slots may belong to ended requests, if a worker died before freeing them.
            if last or not await self._free_ended(request.owner, reply[1:]):
                break
        REQUESTS.labels("too_many_concurrent").inc()
        raise TooManyConcurrent(_CONCURRENT_RETRY_S)

    async def _try(
        self,
        request: Request,
        limits: OwnerLimits,
        idempotency_key: IdempotencyKey | None,
        retry_s: float,
    ) -> list[bytes]:
        owner, keys, once = request.owner, self._keys, idempotency_key
        return await self._broker.script(
            "acquire",
            [
                keys.bucket(owner),
                keys.running(owner),
                keys.idempotency_key(owner, once.key if once else ""),
            ],
            request.request_id,
            once.fingerprint if once else "-",
            self._broker.settings.request_ttl_s if once else 0,
            *(limits.max_concurrent, limits.requests_per_minute, limits.burst),
            request.deadline_ms + _SLOT_GRACE_MS,
            *(one.request_id for one in request.choices or (request,)),
            retry_s=retry_s,
        )

    async def _free_ended(self, owner: str, members: Sequence[bytes]) -> int:
        """Free the slots of requests that have ended; returns how many."""
        freed = 0
        for member in members:
            request_id = member.decode()
            state = await self._broker.call("HGET", self._keys.request(request_id), "state")
            if state is None or state.decode() in TERMINAL_STATES:
                await self.free_slots(owner, request_id)
                freed += 1
        return freed

    async def free_slots(self, owner: str, *request_ids: str) -> None:
        await self._broker.call("ZREM", self._keys.running(owner), *request_ids)

    async def release(self, request: Request, idempotency_key: IdempotencyKey | None) -> None:
        """Free the slots and the idempotency key of a request that was not accepted."""
        slots = [one.request_id for one in request.choices or (request,)]
        await self.free_slots(request.owner, *slots)
        if idempotency_key:
            key = self._keys.idempotency_key(request.owner, idempotency_key.key)
            await self._broker.call("DEL", key)

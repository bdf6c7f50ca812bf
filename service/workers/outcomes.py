"""What becomes of a turn that did not commit."""

from __future__ import annotations

import logging

from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import (
    BrokerError,
    DeadlineExceeded,
    DecodeError,
    Permanent,
    Poisoned,
    RequestError,
    RequestNotFound,
    ServiceError,
    StaleAttempt,
)
from service.metrics import STALE

logger = logging.getLogger(__name__)

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_BROKEN_AFTER = 5


class Outcomes:
    """Answers for turns that were stopped or failed; each answer names itself for the metrics."""

    def __init__(self, queue: Queue, leases: Leases) -> None:
        self._queue = queue
        self._leases = leases
        self._failed: set[str] = set()

    @property
    def broken(self) -> bool:
        """Whether so many different requests failed in a row that this process must be at fault."""
        return len(self._failed) >= _BROKEN_AFTER

    def succeeded(self) -> None:
        """A turn went well."""
        self._failed.clear()

    async def after_cancel(self, delivery: Delivery, attempt: Attempt | None, *, ours: bool) -> str:
        """Stopped from here: this process ends, or (not `ours`) the turn is taken or unwanted."""
        try:
            if not ours:
                return await self._after_loss(delivery)
            await self._leases.nack(delivery, attempt.fence if attempt else "", untried=True)
        except BrokerError:
            logger.warning("cannot hand the turn back: its lease will run out")
        return "handed_back"

    async def _after_loss(self, delivery: Delivery) -> str:
        """Somebody else has the turn, or the request has ended: then nobody needs the task."""
        STALE.inc()
        await self._leases.ack_if_ended(delivery)
        return "stale"

    async def after_error(
        self, delivery: Delivery, attempt: Attempt | None, error: Exception
    ) -> str:
        """Answer for what went wrong in a turn."""
        try:
            match error:
                case StaleAttempt():
                    return await self._after_loss(delivery)
                case BrokerError():
                    logger.warning("redis stayed away: the turn's lease will run out")
                    return "broker_lost"
                case DeadlineExceeded() | TimeoutError():
                    await self._queue.expire(delivery.request_id)
                    await self._leases.ack(delivery)
                    return "deadline"
                case DecodeError() | Poisoned() | Permanent() | RequestError():
                    return await self._give_up(delivery, attempt, error)
            logger.error("turn failed", exc_info=error)
            return await self._retry(delivery, attempt)
        except RequestNotFound:
            await self._leases.dead_letter(delivery, "no such request")
            return "orphan"
        except (BrokerError, DecodeError):
            logger.warning("redis stayed away: the turn's lease will run out")
            return "broker_lost"

    async def _give_up(
        self, delivery: Delivery, attempt: Attempt | None, error: ServiceError
    ) -> str:
        """End the request as failed; what no worker can run becomes a dead letter."""
        logger.error("request failed: %s", type(error).__name__)
        if delivery.request_id:
            fence = attempt.fence if attempt else ""
            public = Permanent() if isinstance(error, DecodeError) else error
            await self._queue.fail(delivery.request_id, public, fence)
        if isinstance(error, DecodeError | Poisoned):
            await self._leases.dead_letter(delivery, error.code, self._leases.max_deliveries)
            return "dead"
        await self._leases.ack(delivery)
        return "failed"

    async def _retry(self, delivery: Delivery, attempt: Attempt | None) -> str:
        """Hand the turn back for another attempt, later each time."""
        self._failed.add(delivery.request_id)
        count = attempt.deliveries if attempt else 1
        pause_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2**count)
        await self._leases.nack(delivery, attempt.fence if attempt else "", pause_s=pause_s)
        return "retried"

"""Handles turns that did not commit: ack, nack, end the request, or dead-letter the task."""

from __future__ import annotations

import logging
from typing import Literal, get_args

from service.broker.turns.attempt import Attempt, Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import (
    BrokerError,
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Permanent,
    Poisoned,
    RequestError,
    RequestNotFound,
    ServiceError,
    StaleAttempt,
)
from service.telemetry.metrics import STALE, TURN_SECONDS, TURNS, start_at_zero

logger = logging.getLogger(__name__)

TurnOutcome = Literal[
    "committed",
    "handed_back",
    "stale",
    "orphan",
    "broker_lost",
    "deadline",
    "dead",
    "failed",
    "retried",
]
COMMITTED: TurnOutcome = "committed"
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_BROKEN_AFTER = 5


class Outcomes:
    """Handles turns that were stopped or failed; each method returns the outcome's metric label."""

    def __init__(self, queue: Queue, leases: Leases) -> None:
        self._queue = queue
        self._leases = leases
        self._failed: set[str] = set()
        start_at_zero(TURNS, [leases.stage], get_args(TurnOutcome))
        start_at_zero(TURN_SECONDS, [leases.stage])

    @property
    def broken(self) -> bool:
        """Whether so many requests failed in a row that this process is likely the cause."""
        return len(self._failed) >= _BROKEN_AFTER

    def succeeded(self) -> None:
        """Note a turn that did not fail."""
        self._failed.clear()

    async def after_cancel(
        self, delivery: Delivery, attempt: Attempt | None, *, ours: bool
    ) -> TurnOutcome:
        """Handle a cancelled turn: this worker drains, or (not `ours`) it has lost the turn."""
        if ours:
            return await self._hand_back(delivery, attempt)
        try:
            return await self._after_loss(delivery)
        except BrokerError:
            return self._broker_lost()

    async def after_engine_died(self, delivery: Delivery, attempt: Attempt | None) -> TurnOutcome:
        """Hand back a turn whose engine has died.

        Any of the engine's turns may have killed it. So none is counted as tried, until this has
        happened to the same turn as often as it may be tried: then it goes the way of all poison.
        """
        return await self._hand_back(delivery, attempt, self._leases.max_deliveries)

    async def _hand_back(
        self, delivery: Delivery, attempt: Attempt | None, most_untried: int = 0
    ) -> TurnOutcome:
        """Nack a turn at once and untried."""
        fence = attempt.fence if attempt else ""
        try:
            await self._leases.nack(delivery, fence, untried=True, most_untried=most_untried)
        except BrokerError:
            logger.warning("cannot nack the turn: its lease will expire")
        return "handed_back"

    async def _after_loss(self, delivery: Delivery) -> TurnOutcome:
        """Handle a turn that another worker holds, or whose request has ended."""
        STALE.inc()
        await self._leases.ack_if_ended(delivery)
        return "stale"

    async def after_error(
        self, delivery: Delivery, attempt: Attempt | None, error: Exception
    ) -> TurnOutcome:
        """Handle an error that ended a turn."""
        try:
            try:
                return await self._handle(delivery, attempt, error)
            except StaleAttempt:
                return await self._after_loss(delivery)
            except RequestNotFound:
                await self._leases.dead_letter(delivery, "no such request")
                return "orphan"
        except (BrokerError, DecodeError):
            return self._broker_lost()

    async def _handle(
        self, delivery: Delivery, attempt: Attempt | None, error: Exception
    ) -> TurnOutcome:
        match error:
            case StaleAttempt():
                raise error
            case ConnectionLost():
                return self._broker_lost()
            case DeadlineExceeded() | TimeoutError():
                await self._queue.expire(delivery.request_id)
                await self._leases.ack(delivery)
                return "deadline"
            case DecodeError() | Poisoned() | Permanent() | RequestError():
                return await self._give_up(delivery, attempt, error)
        logger.error("turn failed", exc_info=error)
        return await self._retry(delivery, attempt)

    def _broker_lost(self) -> TurnOutcome:
        logger.warning("redis is unreachable: the turn's lease will expire")
        return "broker_lost"

    async def _give_up(
        self, delivery: Delivery, attempt: Attempt | None, error: ServiceError
    ) -> TurnOutcome:
        """End the request as failed, and dead-letter the task if no worker can run it."""
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

    async def _retry(self, delivery: Delivery, attempt: Attempt | None) -> TurnOutcome:
        """Nack the turn for another attempt, after a pause that grows with each delivery."""
        self._failed.add(delivery.request_id)
        count = attempt.deliveries if attempt else 1
        pause_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2**count)
        await self._leases.nack(delivery, attempt.fence if attempt else "", pause_s=pause_s)
        return "retried"

"""The model card in Redis: what gateways must know of the model. Text workers write it."""

from __future__ import annotations

import time

from service.broker.redis.connection import Broker
from service.errors import BrokerError, DecodeError
from service.messages import ModelCard

_FRESH_S = 5.0


async def publish(broker: Broker, card: ModelCard, wait_s: float = 3600) -> None:
    """Store the card for the gateways; waits up to `wait_s` for Redis."""
    await broker.call("SET", broker.keys.card(), card.encode(), retry_s=wait_s)


class ModelCards:
    """Reads the card, at most once in five seconds."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._card: ModelCard | None = None
        self._read_at = -_FRESH_S

    async def current(self) -> ModelCard | None:
        """The card; None if no worker has stored one or this version cannot read it."""
        if time.monotonic() - self._read_at >= _FRESH_S:
            self._read_at = time.monotonic()
            try:
                document = await self._broker.call("GET", self._broker.keys.card(), retry_s=0)
                self._card = ModelCard.decode(document) if document else None
            except (BrokerError, DecodeError):
                # Without Redis, enqueueing the request fails anyway.
                return self._card
        return self._card

"""The model's card in Redis: written by text workers, read by gateways."""

from __future__ import annotations

import time

from service.broker.connection import Broker
from service.errors import BrokerError, DecodeError
from service.messages import ModelCard

_FRESH_S = 5.0


async def publish(broker: Broker, card: ModelCard) -> None:
    """Tell the gateways about the model; waits for Redis if it is away."""
    await broker.call("SET", broker.keys.card(), card.encode(), retry_s=3600)


class ModelCards:
    """The card as this process has last read it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._card: ModelCard | None = None
        self._read_at = -_FRESH_S

    async def current(self) -> ModelCard | None:
        """The card; None if no worker has started yet, or what there is cannot be read."""
        if time.monotonic() - self._read_at >= _FRESH_S:
            self._read_at = time.monotonic()
            try:
                document = await self._broker.call("GET", self._broker.keys.card(), retry_s=0)
                self._card = ModelCard.decode(document) if document else None
            except (BrokerError, DecodeError):
                # Whether Redis is there is for the admission itself to find out.
                return self._card
        return self._card

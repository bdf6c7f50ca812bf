"""Waiting until Redis has what was written on its disk."""

from __future__ import annotations

import redis.exceptions

from service.broker.connection import RETRIED, Broker
from service.errors import BrokerError, ConnectionLost

_MARK_TTL_S = 60


async def wait_until_on_disk(broker: Broker) -> None:
    """Return once everything that Redis has acknowledged so far is in its append-only file, synced.

    `WAITAOF` speaks of the writes of its own connection only, and ours come from a pool. So the
    connection that waits writes a mark first: what is on disk with it is all that came before.

    Raises:
        ConnectionLost: Redis could not be asked, or did not get it done in time.
        BrokerError: this Redis keeps no append-only file.
    """
    try:
        async with broker.client.pipeline(transaction=False) as pipeline:
            pipeline.set(broker.keys.load(0) + ":synced", 1, ex=_MARK_TTL_S)
            pipeline.execute_command("WAITAOF", 1, 0, 0)
            await pipeline.execute()
    except RETRIED as error:
        raise ConnectionLost from error
    except redis.exceptions.ResponseError as error:
        raise BrokerError from error

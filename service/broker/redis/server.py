"""Which Redis servers will do.

A server must know the lag of a consumer group after it was killed and has replayed its log, since
KEDA wakes workers by it. Redis before 7.4 does not write the count of delivered entries to its log
(measured with 7.0.15: the lag is NULL from then on, which KEDA reads as nothing to do). Valkey 8
does (measured with 8.1 and 9.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from service.broker.redis.connection import Broker
from service.errors import CommandRefused, StartupError

MINIMUM = {"redis": (7, 4), "valkey": (8, 0)}
ALTERNATIVES = "use Valkey 8 or later, or Redis 7.4 or later"


class UnsuitableServer(StartupError):
    """The Redis server is too old, or may not be asked for its version."""


def suits(name: str, version: tuple[int, int]) -> bool:
    """Whether a server of this name (`redis` or `valkey`) and version will do."""
    return version >= MINIMUM.get(name, MINIMUM["redis"])


async def require_suitable_server(broker: Broker, retry_s: float) -> None:
    """Check the version of every server behind the broker.

    Raises:
        UnsuitableServer: one is too old, or `INFO` is not permitted.
        ConnectionLost: Redis was unreachable for `retry_s`.
    """
    try:
        reply = await broker.call("INFO", "server", retry_s=retry_s)
    except CommandRefused as error:
        raise UnsuitableServer(
            f"Redis refuses INFO ({error.__cause__}): permit it to the user of MMI_REDIS_URL "
            "(ACL rule +info); KEDA needs it too"
        ) from error
    # A cluster answers with one document for each node.
    nodes = reply.values() if all(isinstance(one, Mapping) for one in reply.values()) else [reply]
    for node in nodes:
        name, version = identify(node)
        if not suits(name, version):
            found = ".".join(map(str, version))
            raise UnsuitableServer(
                f"this is {name} {found}, which loses the lag of consumer groups when it restarts, "
                f"so that workers are not scaled any more: {ALTERNATIVES}"
            )


def identify(information: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """Name, major and minor version of a server, from the section `server` of its `INFO`.

    Valkey reports the version of Redis that it is compatible with beside its own.
    """
    name = "valkey" if "valkey_version" in information else "redis"
    match = re.match(r"(\d+)\.(\d+)", str(information[f"{name}_version"]))
    return name, (int(match[1]), int(match[2])) if match else (0, 0)

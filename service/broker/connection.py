"""The connection to Redis: one server, Sentinel or Cluster, by URL; calls that outlive a restart.

Every call made through `call` and `script` can be repeated without harm (that is how the scripts
are written), so a lost connection is answered by trying again, with backoff, for a stated time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import redis.exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from service.broker.keys import Keyspace
from service.config import RedisSettings
from service.errors import ConnectionLost
from service.metrics import BROKER_ERRORS

Client = Redis | RedisCluster

RETRIED = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    OSError,
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def connect(settings: RedisSettings, *, read_timeout_s: float | None = None) -> Client:
    """A client for `settings.redis_url`; nothing is sent before its first command.

    Args:
        settings: where and how.
        read_timeout_s: for connections that wait in a blocking command; None takes the settings'.
    """
    url = urlsplit(settings.redis_url.get_secret_value())
    scheme, _, kind = url.scheme.partition("+")
    plain_url = url._replace(scheme=scheme)
    options: dict[str, Any] = {
        "socket_timeout": read_timeout_s or settings.redis_timeout_s,
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if kind == "cluster":
        return RedisCluster.from_url(urlunsplit(plain_url), **options)
    options["max_connections"] = settings.redis_max_connections
    if kind == "sentinel":
        return _by_sentinel(plain_url, options)
    # A burst waits for a connection; an ordinary pool would refuse it.
    pool = BlockingConnectionPool.from_url(
        urlunsplit(plain_url), timeout=settings.redis_timeout_s, **options
    )
    return Redis.from_pool(pool)


class _MasterClient(Redis):
    """A client that closes its connections to the sentinels with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        await super().aclose(close_connection_pool)
        pool = self.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _by_sentinel(url: SplitResult, options: dict[str, Any]) -> Redis:
    """A client of whichever server the sentinels call the master.

    The URL names the sentinels and the service: `redis://user:password@h1:26379,h2/service`. The
    credentials are those of the service; `sentinel_username` and `sentinel_password` in the query
    are the sentinels' own. All else of the query (as `ssl_ca_certs`) holds for both.
    """
    credentials, at, hosts = url.netloc.rpartition("@")
    # As the client reads the URL of one server: it knows the types of what a query may hold.
    given: dict[str, Any] = dict(
        parse_url(urlunsplit(url._replace(netloc=f"{credentials}{at}sentinel", path="")))
    )
    secure = given.pop("connection_class", None) is not None
    del given["host"]
    own = {name: given.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if secure:
        given["ssl"] = True
    shared = {name: value for name, value in given.items() if name.startswith("ssl")}
    shared |= {name: value for name, value in options.items() if name.startswith("socket_")}
    nodes = [(host or port, int(port) if host else 26379) for host, _, port in
             (name.rpartition(":") for name in hosts.split(","))]  # fmt: skip
    sentinel = Sentinel(nodes, sentinel_kwargs=shared | own)  # type: ignore[no-untyped-call]
    service = url.path.strip("/")
    master: Redis = sentinel.master_for(service, redis_class=_MasterClient, **options | given)
    return master


class Script:
    """A Lua script of `service/broker/lua`, with the shared part `record.lua` in front of it."""

    def __init__(self, name: str) -> None:
        folder = resources.files("service.broker") / "lua"
        self.name = name
        self.source = (folder / "record.lua").read_text() + (folder / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Broker:
    """Calls to Redis with the settings and key names that belong to them."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.keys = Keyspace(settings.namespace, settings.num_partitions)
        self.client = connect(settings)
        self._scripts: dict[str, Script] = {}

    async def call(self, *command: Any, retry_s: float | None = None) -> Any:
        """Run a command that may be repeated without harm.

        Raises:
            ConnectionLost: Redis stayed away for `retry_s` (the settings' `redis_retry_s`).
        """
        limit_s = self.settings.redis_retry_s if retry_s is None else retry_s
        give_up, pause_s = time.monotonic() + limit_s, _FIRST_PAUSE_S
        while True:
            try:
                return await self.once(*command)
            except RETRIED as error:
                BROKER_ERRORS.inc()
                if time.monotonic() + pause_s > give_up:
                    raise ConnectionLost from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def once(self, *command: Any) -> Any:
        """Run a command, without a second try.

        The client sometimes loses a cancellation that arrives while it waits for a reply (it shows
        as a result or as a timeout); here it is raised all the same.
        """
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        try:
            return await self.client.execute_command(*command)
        finally:
            if task and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError

    async def script(
        self, name: str, keys: Sequence[str], *arguments: Any, retry_s: float | None = None
    ) -> list[Any]:
        """Run a script of `service/broker/lua`.

        Raises:
            ConnectionLost: see `call`.
        """
        if name not in self._scripts:
            self._scripts[name] = Script(name)
        script = self._scripts[name]
        rest = (len(keys), *keys, *arguments)
        try:
            reply = await self.call("EVALSHA", script.sha, *rest, retry_s=retry_s)
        except redis.exceptions.NoScriptError:
            reply = await self.call("EVAL", script.source, *rest, retry_s=retry_s)
        return list(reply)

    async def ping(self, timeout_s: float = 1.0) -> bool:
        """Whether Redis answers."""
        try:
            await self.call("GET", self.keys.load(0) + ":ping", retry_s=timeout_s)
        except ConnectionLost:
            return False
        return True

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()


async def cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they end: the client can lose a cancellation, see `Broker.once`."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)

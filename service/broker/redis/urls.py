"""A Redis client from a URL: one server, Sentinel or Cluster, with or without TLS."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from service.config import RedisSettings

Client = Redis | RedisCluster


def connect(settings: RedisSettings, *, read_timeout_s: float | None = None) -> Client:
    """Make a client for `settings.redis_url`; it connects at its first command.

    Args:
        settings: address, timeouts and number of connections.
        read_timeout_s: for connections that wait in a blocking command; None takes
            `redis_timeout_s`.
    """
    url = urlsplit(settings.redis_url.get_secret_value())
    scheme, _, kind = url.scheme.partition("+")
    plain_url = url._replace(scheme=scheme)
    options: dict[str, Any] = {
        "socket_timeout": read_timeout_s or settings.redis_timeout_s,
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_keepalive": True,
        # `Broker` retries; a second loop inside it would multiply its time limit.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if kind == "cluster":
        return _by_cluster(plain_url, options)
    options["max_connections"] = settings.redis_max_connections
    if kind == "sentinel":
        return _by_sentinel(plain_url, options)
    # The default pool raises an error once all connections are in use; this one waits.
    pool = BlockingConnectionPool.from_url(
        urlunsplit(plain_url), timeout=settings.redis_timeout_s, **options
    )
    return Redis.from_pool(pool)


def _by_cluster(url: SplitResult, options: dict[str, Any]) -> RedisCluster:
    """Make a client of a cluster. The URL names some of its nodes, of which one must answer."""
    credentials, at, _ = url.netloc.rpartition("@")
    nodes = [ClusterNode(host, port) for host, port in _addresses(url, 6379)]
    first = url._replace(netloc=f"{credentials}{at}{nodes[0].host}:{nodes[0].port}")
    cluster: RedisCluster = RedisCluster.from_url(urlunsplit(first), startup_nodes=nodes, **options)
    return cluster


def _addresses(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """The hosts and ports of a URL that names several, separated by commas."""
    names = url.netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{name}") for name in names]
    return [(part.hostname or "", part.port or default_port) for part in parts]


class _MasterClient(Redis):
    """A client that closes its connections to the sentinels together with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool = self.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _by_sentinel(url: SplitResult, options: dict[str, Any]) -> Redis:
    """Make a client of the master that the sentinels name.

    The URL names the sentinels and the service: `redis://user:password@h1:26379,h2/service`. These
    credentials are for the master; those for the sentinels are `sentinel_username` and
    `sentinel_password` in the query. Everything else in the query (as `ssl_ca_certs`) applies to
    both.
    """
    credentials, at, _ = url.netloc.rpartition("@")
    # redis-py parses the URL of a single server and converts the types of its query.
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
    nodes = _addresses(url, 26379)
    sentinel = Sentinel(nodes, sentinel_kwargs=shared | own)  # type: ignore[no-untyped-call]
    service = url.path.strip("/")
    master: Redis = sentinel.master_for(service, redis_class=_MasterClient, **options | given)
    return master

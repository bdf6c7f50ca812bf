"""Calls to Redis that survive a restart of the server.

Every command and script run by `call` and `script` can be repeated without harm, so a call whose
connection was lost is tried again, with backoff, until a time limit. This is the only module that
handles redis-py's exceptions: it raises the `BrokerError`s of `service.errors` in their place.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import redis.exceptions
from redis.commands.core import AsyncScript

from service.broker.keys import GROUP, Keyspace
from service.broker.redis.urls import connect
from service.config import RedisSettings
from service.errors import BrokerError, CommandRefused, ConnectionLost, GroupMissing
from service.telemetry.metrics import BROKER_ERRORS

CONNECTION_ERRORS = (
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
_SYNC_MARK_TTL_S = 60


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the service's errors in place of redis-py's.

    Raises:
        ConnectionLost: the connection failed, or the server cannot serve commands at present.
        GroupMissing: the stream or its consumer group does not exist.
        CommandRefused: the server answered with any other error.
    """
    try:
        yield
    except CONNECTION_ERRORS as error:
        BROKER_ERRORS.inc()
        raise ConnectionLost from error
    except redis.exceptions.ResponseError as error:
        # UNBLOCKED: the stream was deleted while this connection waited for an entry.
        if str(error).startswith(("NOGROUP", "UNBLOCKED")):
            raise GroupMissing from error
        raise CommandRefused from error


class Broker:
    """A Redis client together with its settings, key names and scripts."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.keys = Keyspace(settings.namespace, settings.num_partitions)
        self.client = connect(settings)
        self._scripts: dict[str, AsyncScript] = {}

    async def call(self, *command: Any, retry_s: float | None = None) -> Any:
        """Run a command that can be repeated without harm.

        Raises:
            ConnectionLost: Redis was unreachable for `retry_s` (default: `redis_retry_s`).
            CommandRefused: Redis answered with an error.
        """
        return await self._retry(lambda: self.client.execute_command(*command), retry_s)

    async def call_once(self, *command: Any) -> Any:
        """Run a command without retrying it.

        Raises:
            ConnectionLost: the reply did not arrive; the command may have been executed.
            CommandRefused: Redis answered with an error.
        """
        with translated_errors():
            return await _keep_cancellation(self.client.execute_command(*command))

    async def script(
        self, name: str, keys: Sequence[str], *arguments: Any, retry_s: float | None = None
    ) -> list[Any]:
        """Run the script `lua/<name>.lua`.

        Raises:
            ConnectionLost, CommandRefused: see `call`.
        """
        if name not in self._scripts:
            folder = resources.files("service.broker") / "lua"
            source = (folder / "record.lua").read_text() + (folder / f"{name}.lua").read_text()
            self._scripts[name] = self.client.register_script(source)
        script = self._scripts[name]
        return list(await self._retry(lambda: script(keys, arguments), retry_s))

    async def _retry(self, run: Callable[[], Awaitable[Any]], retry_s: float | None) -> Any:
        # redis-py's `Retry` limits the number of tries, not the time that they take.
        limit_s = self.settings.redis_retry_s if retry_s is None else retry_s
        give_up, pause_s = time.monotonic() + limit_s, _FIRST_PAUSE_S
        while True:
            try:
                with translated_errors():
                    return await _keep_cancellation(run())
            except ConnectionLost:
                if time.monotonic() + pause_s > give_up:
                    raise
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def create_group(self, stream: str) -> None:
        """Create a stream and its consumer group, reading from the first entry, unless it exists.

        Raises:
            ConnectionLost, CommandRefused: see `call`.
        """
        try:
            await self.call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
        except CommandRefused as error:
            if not str(error.__cause__).startswith("BUSYGROUP"):
                raise

    async def wait_until_on_disk(self) -> None:
        """Return once Redis has synced everything acknowledged so far to its append-only file.

        `WAITAOF` covers the writes of its own connection only, and ours come from a pool. So the
        connection that waits writes a mark first: once the mark is on disk, so is all before it.

        Raises:
            ConnectionLost: Redis was unreachable or did not sync in time.
            CommandRefused: this Redis has no append-only file.
        """
        with translated_errors():
            async with self.client.pipeline(transaction=False) as pipeline:
                pipeline.set(self.keys.sync_mark(), 1, ex=_SYNC_MARK_TTL_S)
                pipeline.execute_command("WAITAOF", 1, 0, 0)
                await pipeline.execute()

    async def ping(self, timeout_s: float = 1.0) -> bool:
        """Whether Redis answers within `timeout_s`."""
        try:
            await self.call("GET", self.keys.ping(), retry_s=timeout_s)
        except BrokerError:
            return False
        return True

    async def close(self) -> None:
        await self.client.aclose()


async def _keep_cancellation(call: Awaitable[Any]) -> Any:
    """Await a call to Redis, and raise a cancellation that arrived meanwhile.

    redis-py sometimes loses one that arrives while it waits for a reply: it then returns a result
    or raises a timeout.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        return await call
    finally:
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError


async def cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks again until they end: redis-py can lose a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)

"""Waiting for the first of several coroutines; the others are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from service.broker.redis.connection import cancel_all


class Race:
    """Runs coroutines concurrently; leaving the context cancels and awaits all of them."""

    def __init__(self, *runners: Coroutine[Any, Any, Any]) -> None:
        self._runners = runners
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(runner) for runner in self._runners]
        return self

    async def first(self) -> int:
        """The position of the first that ends; its exception is raised here."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        position = next(number for number, task in enumerate(self._tasks) if task.done())
        self._tasks[position].result()
        return position

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await cancel_all(self._tasks)

"""Watches a worker's engine: it must live, and advance while it holds work."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from model.engine.protocol import Engine, EngineDied

_LONGEST_PERIOD_S = 1.0
_UNREADY_AFTER_S = 10.0


class Watchdog:
    """Looks at an engine several times within `stall_s`.

    An engine that holds work must take steps, and any engine must answer a ping, which it does
    between two steps. A process that is stopped or a step that never ends breaks both rules; a
    process that has ended is noticed at the next look.
    """

    def __init__(self, engine: Engine, stall_s: float) -> None:
        self._engine = engine
        self._stall_s = stall_s
        self._period_s = min(_LONGEST_PERIOD_S, stall_s / 10)
        self._num_steps = -1
        self._advanced_at = self._answered_at = time.monotonic()
        self._ping: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        """False once the engine has been silent for too long."""
        return self._silence_s <= self._stall_s

    @property
    def ready(self) -> bool:
        """Whether the engine lives and was heard of lately."""
        recent_s = min(_UNREADY_AFTER_S, self._stall_s / 2)
        return self._engine.vitals().alive and self._silence_s <= recent_s

    @property
    def _silence_s(self) -> float:
        return time.monotonic() - min(self._advanced_at, self._answered_at)

    async def watch(self) -> None:
        """Watch until the engine dies or hangs.

        Raises:
            EngineDied: it does.
        """
        self._advanced_at = self._answered_at = time.monotonic()
        try:
            while True:
                self._look()
                await asyncio.sleep(self._period_s)
        finally:
            if self._ping is not None:
                self._ping.cancel()

    def _look(self) -> None:
        vitals, now = self._engine.vitals(), time.monotonic()
        if not vitals.alive:
            raise EngineDied("the engine has ended")
        if not vitals.busy or vitals.num_steps != self._num_steps:
            self._num_steps, self._advanced_at = vitals.num_steps, now
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self._ask())
        if not self.live:
            raise EngineDied(f"the engine has not advanced for {self._stall_s:g} s")

    async def _ask(self) -> None:
        """Ping the engine; one that has ended is noticed by its vitals."""
        with suppress(EngineDied):
            await self._engine.ping()
            self._answered_at = time.monotonic()

"""Starts child processes that have ended again, with backoff, and gives up if one keeps ending."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import StartupError
from service.local.processes import RoleFailed

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# More often than a task is delivered before it becomes a dead letter (MMI_MAX_DELIVERIES): a task
# that crashes its worker does not end the system.
_MOST_FAILURES = 8
_STABLE_S = 60.0


class Child(Protocol):
    """A process that can be started again."""

    name: str

    def start(self) -> None: ...

    def ready(self) -> bool: ...

    def check(self) -> None:
        """Raise a `StartupError` if the process has ended."""
        ...


@dataclass
class _Watched:
    child: Child
    failures: int = 0
    ready_at: float | None = None
    restart_at: float | None = None


class Supervisor:
    """Watches processes that are ready.

    A process that was ready for a minute has no failures any more.
    """

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        self._say = say
        self._watched = [_Watched(child, ready_at=time.monotonic()) for child in children]

    def check(self) -> None:
        """Start processes that have ended again, once their pause is over. Call it repeatedly.

        Raises:
            RoleFailed: a process ended too often in a row.
        """
        for watched in self._watched:
            try:
                self._check(watched)
            except StartupError as error:
                self._failed(watched, error)

    def _check(self, watched: _Watched) -> None:
        now, child = time.monotonic(), watched.child
        if watched.restart_at is not None:
            if now >= watched.restart_at:
                watched.restart_at = None
                child.start()
            return
        child.check()
        if watched.ready_at is None and child.ready():
            watched.ready_at = time.monotonic()
            self._say(f"{child.name} is ready again")

    def _failed(self, watched: _Watched, error: StartupError) -> None:
        now, name = time.monotonic(), watched.child.name
        stable = watched.ready_at is not None and now - watched.ready_at > _STABLE_S
        watched.failures = 1 if stable else watched.failures + 1
        if watched.failures >= _MOST_FAILURES:
            raise RoleFailed(f"giving up: {name} ended {watched.failures} times in a row\n{error}")
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (watched.failures - 1))
        watched.ready_at, watched.restart_at = None, now + pause_s
        self._say(f"{str(error).splitlines()[0]}; starting it again in {pause_s:g} s")

"""Roles as child processes, each with a log file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from service.config import child_environment
from service.errors import StartupError

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this child when its parent ends for any reason."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def interrupt_once() -> None:
    """Have the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore later ones."""

    def interrupt(number: int, frame: object) -> None:
        for known in (signal.SIGINT, signal.SIGTERM):
            signal.signal(known, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


class RoleFailed(StartupError):
    """A role ended before it was ready, or keeps ending."""


class RoleProcess:
    """One `mmi <role>` process."""

    module = "service"

    def __init__(self, name: str, port: int, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def start(self) -> None:
        """Start the process, again if it has ended; its output goes to its log."""
        self.started = time.monotonic()
        again = self._process is not None
        if again:
            self.wait(0)
        with self.log.open("ab" if again else "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, self.name],
                env=child_environment(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int | None:
        """The process id, once it has started."""
        return self._process.pid if self._process else None

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            RoleFailed: it has; the first line says so, the others are the end of its log.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RoleFailed(
                f"{self.name} ended with status {code}; {self.log} ends with:\n{self.tail()}"
            )

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def ready(self) -> bool:
        """Whether the role takes work, by its own account."""
        # Not by httpx, which reads all certificates for every client that it makes.
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def terminate(self) -> None:
        """Ask the role to finish what it holds and end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the end; after `seconds`, kill the role and all of its children."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        # Also kills processes that the role has left in its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

"""A worker as a process: its name, and how it ends."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading

logger = logging.getLogger(__name__)


def consumer_name() -> str:
    """A name that is unique among all processes, past ones included."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def end_on_signal() -> None:
    """Have SIGTERM and SIGINT end the process at once, until `Worker.run` handles them.

    No task is held yet, and to start an engine takes minutes, in threads that nothing interrupts.
    In a container the first process has no default action: without a handler it would stay until
    it is killed.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))


def exit_within(seconds: float) -> threading.Timer:
    """Have the process exit with status 1 after `seconds`, whatever else hangs by then."""

    def end() -> None:
        logger.critical("this worker does not stop by itself: it exits now")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer

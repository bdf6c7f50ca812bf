"""A worker as a process: its name, and how it ends."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading

logger = logging.getLogger(__name__)


def consumer_name() -> str:
    """A name that is unique among all processes, past ones included."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def end_on_signal() -> None:
    """Have SIGTERM end the process at once, until `Worker.run` handles it: no task is held yet."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))


def exit_within(seconds: float) -> threading.Timer:
    """Have the process exit with status 1 after `seconds`, whatever else hangs by then."""

    def end() -> None:
        logger.critical("this worker does not stop by itself: it exits now")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer

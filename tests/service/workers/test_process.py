"""How the process of a worker is named, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from service.workers.process import consumer_name

HANGS = """
import threading
from service.workers.process import exit_within
exit_within(0.2)
threading.Event().wait()
"""

STARTS = """
import asyncio, threading
from service import loop
from service.workers.process import end_on_signal
end_on_signal()
async def main():
    print("starting", flush=True)
    await asyncio.to_thread(threading.Event().wait)
loop.run(main())
"""


def test_names_differ() -> None:
    assert len({consumer_name() for _ in range(100)}) == 100


def test_a_process_that_hangs_exits_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=60, capture_output=True, text=True)
    assert done.returncode == 1
    assert "does not stop by itself" in done.stderr


def test_a_process_that_ends_does_not_wait_for_its_limit() -> None:
    script = "from service.workers.process import exit_within\nexit_within(3600)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_starts_an_engine_ends_at_once(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"starting\n"
        process.send_signal(number)
        assert process.wait(30) == 0

from __future__ import annotations

import subprocess
import sys

from service.workers.process import consumer_name

HANGS = """
import threading
from service.workers.process import exit_within
exit_within(0.2)
threading.Event().wait()
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

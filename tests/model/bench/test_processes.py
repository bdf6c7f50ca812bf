from __future__ import annotations

import os
import subprocess
import sys
import time

from model.bench.processes import cpu_seconds, peak_memory_mib, process_tree, resident_mib


def test_descendants_belong_to_the_tree_until_they_end() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep) as child:
        assert {os.getpid(), child.pid} <= set(process_tree())
        child.kill()
    assert child.pid not in process_tree()
    assert cpu_seconds([child.pid]) == resident_mib(child.pid) == 0


def test_computing_takes_processor_time() -> None:
    before, until = cpu_seconds([os.getpid()]), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_seconds([os.getpid()]) >= before + 0.05
    assert cpu_seconds() >= cpu_seconds([os.getpid()])


def test_the_peak_is_at_least_what_is_resident() -> None:
    resident = resident_mib(os.getpid())
    assert 1 < resident <= peak_memory_mib()

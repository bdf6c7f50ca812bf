from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from model.vllm_plugin.engine_core.parent import end_with_parent

# Its child watches it, with a child of its own, as vLLM's engine has one for each rank.
_FAMILY = """
import multiprocessing, time
from model.vllm_plugin.engine_core.parent import end_with_parent

def rank():
    end_with_parent()
    time.sleep(600)

def engine(pids):
    end_with_parent()
    child = multiprocessing.get_context("{method}").Process(target=rank)
    child.start()
    pids.put(child.pid)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    pids = context.Queue()
    child = context.Process(target=engine, args=(pids,))
    child.start()
    print(child.pid, pids.get(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_what_a_killed_worker_started_ends_too(method: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(_FAMILY.format(method=method))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        family = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
        assert len(family) == 2
        worker.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_a_process_without_such_a_parent_goes_on() -> None:
    module = end_with_parent.__module__
    code = f"from {module} import end_with_parent; end_with_parent(); print('on')"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "on\n"

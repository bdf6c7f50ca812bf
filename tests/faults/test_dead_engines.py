"""vLLM's process, killed or stopped under load: no request fails, no lease is lost.

pytest -m faults tests/faults/test_dead_engines.py
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.local.supervisor import Supervisor
from tests.faults.real_system import ENDS, Answer, RealSystem, assert_same

PROMPTS = (
    "Pip the fox went to the lake.",
    "Once upon a time there was a cat.",
    "The sun was high and",
    "A bird sat on a tree.",
)
TEXT = {"output_modalities": ["text"], "min_tokens": 100, "max_tokens": 120}
WORKER = "text-worker"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RealSystem]:
    """Leases and deadlines outlast the test, so no answer comes whose lease was lost."""
    settings = {"lease_s": "3600", "deadline_ms": "3600000", "stall_s": "30", "max_deliveries": "1"}
    system = RealSystem(tmp_path, (WORKER,), **settings)
    try:
        system.start()
        yield system
    finally:
        system.stop()


@contextmanager
def supervised(system: RealSystem) -> Iterator[list[str]]:
    """Have processes that end started again, as `mmi serve` does; yields what it says of them."""
    said: list[str] = []
    supervisor, over = Supervisor(list(system.roles.values()), said.append), threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            supervisor.check()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join()


def engine_process(system: RealSystem) -> psutil.Process:
    """vLLM's process of the text worker."""
    worker = psutil.Process(system.roles[WORKER].pid)
    [found] = [p for p in worker.children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
    return found


class Striker:
    """Sends a signal to vLLM's process once, when some answer has got so many deltas."""

    def __init__(self, system: RealSystem, number: signal.Signals) -> None:
        self._system, self._number = system, number
        self._lock = threading.Lock()
        self.struck = 0

    def watch(self, answer: Answer) -> None:
        with self._lock:
            if not self.struck and answer.count("text.delta") == 8:
                self.struck += 1
                os.kill(engine_process(self._system).pid, self._number)


def ask_all(system: RealSystem, on_event: Callable[[Answer], None] | None = None) -> list[Answer]:
    """The answers to all prompts, asked at the same time."""

    def ask(prompt: str) -> Answer:
        return system.ask({"content": [{"type": "text", "text": prompt}], **TEXT}, on_event)

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


def health_of(system: RealSystem, over: threading.Event) -> set[tuple[str, int]]:
    """The worker's probes and what they have said, until `over` is set."""
    seen: set[tuple[str, int]] = set()
    with httpx.Client(trust_env=False, timeout=2) as client:
        while not over.wait(0.05):
            for path in ("/livez", "/readyz"):
                try:
                    reply = client.get(f"http://127.0.0.1:{system.roles[WORKER].port}{path}")
                except httpx.HTTPError:
                    continue
                seen.add((path, reply.status_code))
    return seen


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_dies_or_hangs_costs_no_request(
    system: RealSystem, number: signal.Signals
) -> None:
    clean = ask_all(system)
    assert all(answer.events[-1]["type"] in ENDS for answer in clean)
    first, over = system.roles[WORKER].pid, threading.Event()
    striker = Striker(system, number)
    with supervised(system) as said, ThreadPoolExecutor(1) as pool:
        health = pool.submit(health_of, system, over)
        try:
            answers = ask_all(system, striker.watch)
        finally:
            over.set()

    assert striker.struck == 1
    for answer, expected in zip(answers, clean, strict=True):
        assert_same(answer, expected)
    assert system.roles[WORKER].pid != first
    assert any("text-worker ended with status 1" in line for line in said)
    if number == signal.SIGSTOP:
        assert ("/livez", 503) in health.result()
    assert ("/readyz", 503) in health.result()

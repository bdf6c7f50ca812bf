"""The whole service on one card: a story, sixteen at once, and a worker killed under one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from model.bench.gpu.recorder import Recorder
from service.client.example import example_request
from service.client.stream import GatewayClient, RequestRefused, StreamedAnswer
from service.local.stack import Stack

_READY_S = 120.0


@dataclass(frozen=True)
class Told:
    """What came of a story, and when its first token and its end came, in seconds."""

    answer: StreamedAnswer
    first_s: float
    seconds: float

    @property
    def completed(self) -> bool:
        """Whether it came to its end or to a limit."""
        end = self.answer.end or {}
        return end.get("type") in ("response.completed", "response.incomplete")


def run(recorder: Recorder) -> None:
    """Start the service, and tell stories."""
    number, steps = (2, 4) if recorder.rehearsal else (16, 20)
    environment = {"MMI_AUTH": "off"}
    if recorder.rehearsal:  # A CPU's default would export graphs first, which no card does.
        environment["MMI_IMAGE_BACKEND"] = "torch"
    started = time.monotonic()
    stack = Stack(
        recorder.cache_dir / "service",
        Console(quiet=True),
        checkpoint=recorder.checkpoint,
        environment=environment,
    )
    with stack:
        recorder.note("ready", seconds=round(time.monotonic() - started, 1))
        _note(recorder, "story", [_tell(stack.url, 7, steps)])
        with ThreadPoolExecutor(number) as pool:
            told = list(
                pool.map(lambda seed: _tell(stack.url, seed, steps), range(100, 100 + number))
            )
        _note(recorder, "stories", told)
        for role in ("image-worker", "text-worker"):
            _note(recorder, f"story, {role} killed", [_tell_through_kill(stack, role, steps)])


def _tell(
    url: str, seed: int, steps: int, on_event: Callable[[dict[str, Any]], None] | None = None
) -> Told:
    """Ask for a story and read it to its end."""
    client, answer, started, first_s = GatewayClient(url), StreamedAnswer(), time.monotonic(), 0.0
    try:
        for event in client.stream(example_request(seed, steps)):
            if event["type"] == "text.delta":
                first_s = first_s or time.monotonic() - started
            answer.add(event)
            if on_event is not None:
                on_event(event)
    except RequestRefused:
        pass  # The story then counts as not completed.
    finally:
        client.close()
    return Told(answer, first_s, time.monotonic() - started)


def _tell_through_kill(stack: Stack, name: str, steps: int) -> Told:
    """A story under which a worker is killed and started again.

    Raises:
        RoleFailed: the worker that was started has ended.
    """
    role, killed = stack.roles[name], threading.Event()
    wanted = "image.progress" if name == "image-worker" else "text.delta"

    def kill(event: dict[str, Any]) -> None:
        if event["type"] == wanted and not killed.is_set() and role.pid is not None:
            killed.set()
            os.killpg(role.pid, signal.SIGKILL)
            role.start()

    told = _tell(stack.url, 7, steps, kill)
    give_up = time.monotonic() + _READY_S
    while not role.ready() and time.monotonic() < give_up:
        role.check()
        time.sleep(0.2)
    return told


def _note(recorder: Recorder, what: str, told: list[Told]) -> None:
    seconds = sorted(one.seconds for one in told)
    recorder.note(
        what,
        number=len(told),
        completed=sum(one.completed for one in told),
        images=sum(len(one.answer.images) for one in told),
        first_token_p50_s=round(sorted(one.first_s for one in told)[len(told) // 2], 3),
        seconds_p50=round(seconds[len(seconds) // 2], 2),
        seconds_longest=round(seconds[-1], 2),
    )

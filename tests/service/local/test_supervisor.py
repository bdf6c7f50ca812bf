"""Processes that end are started again, until one keeps ending."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.client.stream import GatewayClient
from service.commands.local import serve
from service.local import supervisor
from service.local.embedded_redis import EmbeddedRedis
from service.local.processes import RoleFailed, RoleProcess
from service.local.stack import Stack
from service.local.supervisor import Supervisor


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    return clock


class Child:
    """A process that is running or not, and ready as soon as it runs."""

    name = "text-worker"

    def __init__(self) -> None:
        self.running = True
        self.num_starts = 0

    def start(self) -> None:
        self.num_starts += 1
        self.running = True

    def ready(self) -> bool:
        return self.running

    def check(self) -> None:
        if not self.running:
            raise RoleFailed("text-worker ended with status 1; log ends with:\nlast words")


def end(child: Child, watching: Supervisor, clock: Clock) -> float:
    """End the process; returns how long the supervisor waits before it starts it again."""
    child.running = False
    started, num_starts = clock.now, child.num_starts
    watching.check()
    while child.num_starts == num_starts:
        clock.now += 0.25
        watching.check()
    watching.check()
    return clock.now - started


def test_pauses_grow_and_the_last_failure_ends_it(clock: Clock) -> None:
    said: list[str] = []
    child = Child()
    watching = Supervisor([child], said.append)
    assert [end(child, watching, clock) for _ in range(7)] == [0.5, 1, 2, 4, 8, 16, 30]
    assert said[0] == "text-worker ended with status 1; log ends with:; starting it again in 0.5 s"
    assert said[1] == "text-worker is ready again"
    child.running = False
    with pytest.raises(RoleFailed, match="text-worker ended 8 times in a row") as failed:
        watching.check()
    assert str(failed.value).endswith("last words")


def test_a_process_that_was_ready_for_a_while_has_no_failures_any_more(clock: Clock) -> None:
    child = Child()
    watching = Supervisor([child], lambda text: None)
    for _ in range(20):
        clock.now += 61
        assert end(child, watching, clock) == 0.5


@pytest.fixture
def fake_roles(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Stack]]:
    """Roles of stacks run on fake engines; yields the stacks that are ready and supervised."""
    monkeypatch.setattr(RoleProcess, "module", "tests.service.local.fake_role")
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.2)
    for name in ("MMI_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMI_LEASE_S", "1")
    stacks: list[Stack] = []
    watch = Stack.watch

    def note(self: Stack) -> None:
        stacks.append(self)
        watch(self)

    monkeypatch.setattr(Stack, "watch", note)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield stacks
    for number, handler in handlers.items():
        signal.signal(number, handler)


def serve_while(tmp_path: Path, stacks: list[Stack], story: Callable[[Stack], None]) -> int:
    """`mmi serve`, while `story` runs in a thread, until it ends or is interrupted by the story.

    Returns the exit status.
    """
    failures: list[BaseException] = []

    def tell() -> None:
        try:
            while not stacks:
                time.sleep(0.1)
            story(stacks[0])
        except BaseException as error:  # raised below
            failures.append(error)
            interrupt()

    thread = threading.Thread(target=tell)
    thread.start()
    arguments = argparse.Namespace(
        host="127.0.0.1", port=0, checkpoint=tmp_path, cache_dir=tmp_path, api_keys=None
    )
    code = serve.run(arguments)
    thread.join()
    if failures:
        raise failures[0]
    return code


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def all_ready(stack: Stack) -> bool:
    return all(role.ready() for role in stack.roles.values())


def kill(process: RoleProcess | EmbeddedRedis) -> None:
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while process.pid == pid:
        time.sleep(0.05)
    while not process.ready():
        time.sleep(0.05)


def ask(stack: Stack) -> list[str]:
    client = GatewayClient(stack.url)
    document = {"content": [{"type": "text", "text": "hello"}], "stream": True}
    try:
        return [event["type"] for event in client.stream(document)]
    finally:
        client.close()


@pytest.mark.timeout(300)
def test_serve_starts_what_was_killed_again(
    tmp_path: Path, fake_roles: list[Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    def story(stack: Stack) -> None:
        assert ask(stack)[-1] == "response.completed"
        for role in stack.roles.values():
            kill(role)
        assert ask(stack)[-1] == "response.completed"
        assert stack._redis is not None
        kill(stack._redis)
        while not all_ready(stack):
            time.sleep(0.05)
        assert ask(stack)[-1] == "response.completed"
        interrupt()

    assert serve_while(tmp_path, fake_roles, story) == 0

    said = " ".join(capsys.readouterr().out.split())
    for name in ("gateway", "text-worker", "image-worker", "redis"):
        assert f"{name} ended with status -9" in said
        assert f"{name} is ready again" in said


@pytest.mark.timeout(300)
def test_serve_ends_when_a_role_keeps_dying(
    tmp_path: Path, fake_roles: list[Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    def story(stack: Stack) -> None:
        (tmp_path / "image-worker").touch()
        pid = stack.roles["image-worker"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    assert serve_while(tmp_path, fake_roles, story) == 1

    said = " ".join(capsys.readouterr().out.split())
    assert "giving up: image-worker ended 8 times in a row" in said
    assert "ended with status 3" in said and "cannot go on" in said

"""The roles as `mmi` runs them, engines and all: killed in the middle of a text and of a picture.

pytest -m faults tests/faults/test_real_engines.py
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.local.embedded_redis import EmbeddedRedis, free_port
from service.local.processes import Role

LEASE_S = 2.0
ENDS = ("response.completed", "response.incomplete")
PROMPTS = ("Pip the fox went to the lake.", "Once upon a time there was a cat.")
COMMON = {
    "image": {"steps": 20, "seed": 5, "guidance_scale": 3.0},
    "temperature": 0,
    "seed": 5,
    "stream": True,
}
TEXT = {"output_modalities": ["text"], "min_tokens": 80, "max_tokens": 90}
PICTURE = {"draw_now": True, "max_images": 1, "max_tokens": 30}
_OUT = Path(__file__).resolve().parents[2] / "out" / "faults_real_engines.json"


@dataclass
class Answer:
    """What the events of one request tell."""

    events: list[dict] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)

    def note(self, event: dict) -> None:
        self.events.append(event)
        if event["type"] == "part.start" and event["kind"] == "text":
            self.texts.append("")
        elif event["type"] == "text.delta":
            self.texts[-1] += event["text"]
        elif event["type"] == "image.done":
            picture = Image.open(io.BytesIO(base64.b64decode(event["b64"])))
            self.pictures.append(np.asarray(picture.convert("RGB")))

    def count(self, kind: str) -> int:
        return sum(event["type"] == kind for event in self.events)

    @property
    def starts(self) -> list[tuple[int, str]]:
        return [(e["index"], e["kind"]) for e in self.events if e["type"] == "part.start"]


class System:
    """Redis, a gateway and one real worker of each stage."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._redis = EmbeddedRedis(directory / "redis", directory / "redis.log")
        self.roles: dict[str, Role] = {}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        for name in ("gateway", "image-worker", "text-worker"):
            own = port if name == "gateway" else free_port()
            environment = {
                "MMI_REDIS_URL": self._redis.url,
                "MMI_PORT": str(own),
                "MMI_HEALTH_PORT": str(own),
                "MMI_AUTH": "off",
                "MMI_LEASE_S": str(LEASE_S),
                "MMI_MAX_DELIVERIES": "10",
                "MMI_KV_CACHE_MIB": "128",
                "MMI_IMAGE_BACKEND": "torch",  # the one that is back soonest
                "MMI_PROGRESS_INTERVAL_S": "0",
                "MMI_CACHE_DIR": str(directory / "cache"),
                "OMP_NUM_THREADS": "1",
            }
            self.roles[name] = Role(name, own, environment, directory / f"{name}.log")

    def start(self) -> None:
        self._redis.start()
        self._stack.callback(self._redis.stop)
        for name in self.roles:
            self._stack.callback(self.roles[name].wait, 10)
            self._stack.callback(self.roles[name].terminate)
            self.roles[name].start()
        for name in self.roles:
            self.wait_for(name)

    def stop(self) -> None:
        self._stack.close()

    def wait_for(self, name: str) -> None:
        while not self.roles[name].ready():
            self.roles[name].check()
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """SIGKILL to the process and its engine's; it is started again at once."""
        role = self.roles[name]
        assert role.pid is not None
        os.killpg(role.pid, signal.SIGKILL)
        role.wait(10)
        role.start()

    def ask(self, document: dict, on_event: Callable[[Answer], None] | None = None) -> Answer:
        """The answer to a request; `on_event` is called after each of its events."""
        answer = Answer()
        timeout = httpx.Timeout(30, read=300)
        with (
            httpx.Client(base_url=self.url, trust_env=False, timeout=timeout) as client,
            client.stream("POST", "/generate", json={**COMMON, **document}) as response,
        ):
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    answer.note(json.loads(line[6:]))
                    if on_event is not None:
                        on_event(answer)
        return answer


class Killer:
    """Kills a worker once, when the request that is watched has got so many events of a kind."""

    def __init__(self, system: System, name: str, kind: str, count: int) -> None:
        self._system, self._name, self._kind, self._count = system, name, kind, count
        self.kills = 0
        self.longest_pause_s = 0.0
        self._last = time.monotonic()

    def watch(self, answer: Answer) -> None:
        if self.kills:
            self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - self._last)
        self._last = time.monotonic()
        if not self.kills and answer.count(self._kind) == self._count:
            self.kills += 1
            self._system.kill(self._name)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    try:
        system.start()
        yield system
    finally:
        system.stop()


def assert_same(answer: Answer, clean: Answer) -> None:
    numbers = [event["sequence_number"] for event in answer.events]
    assert numbers == list(range(len(numbers)))
    assert answer.starts == clean.starts
    assert answer.texts == clean.texts
    assert answer.events[-1]["type"] == clean.events[-1]["type"]
    for picture, other in zip(answer.pictures, clean.pictures, strict=True):
        assert np.array_equal(picture, other)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_answers_are_the_same_whoever_is_killed_in_the_middle(system: System) -> None:
    pauses_s: dict[str, list[float]] = {"text-worker": [], "image-worker": []}
    for prompt in PROMPTS:
        content = [{"type": "text", "text": prompt}]
        for document, name, kind in (
            (TEXT, "text-worker", "text.delta"),
            (PICTURE, "image-worker", "image.progress"),
        ):
            clean = system.ask({"content": content, **document})
            assert clean.events[-1]["type"] in ENDS, clean.events
            killer = Killer(system, name, kind, 5)
            answer = system.ask({"content": content, **document}, killer.watch)
            assert killer.kills == 1
            assert_same(answer, clean)
            pauses_s[name].append(round(killer.longest_pause_s, 1))
            system.wait_for(name)
    report = {
        "requests": 4 * len(PROMPTS),
        "kills": 2 * len(PROMPTS),
        "different_answers": 0,
        "lease_s": LEASE_S,
        "longest_pause_s": pauses_s,
    }
    _OUT.parent.mkdir(exist_ok=True)
    _OUT.write_text(json.dumps(report, indent=2) + "\n")

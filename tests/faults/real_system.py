"""Redis, a gateway and real workers as `mmi` runs them, engines and all; and what they answer."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from service.local.embedded_redis import EmbeddedRedis, free_port
from service.local.processes import RoleProcess

LEASE_S = 2.0
ENDS = ("response.completed", "response.incomplete")
COMMON = {
    "image": {"steps": 20, "seed": 5},
    "temperature": 0,
    "seed": 5,
    "stream": True,
}


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


class RealSystem:
    """Redis, a gateway and one real worker of each stage, or of some."""

    def __init__(
        self,
        directory: Path,
        workers: Sequence[str] = ("image-worker", "text-worker"),
        **settings: str,
    ) -> None:
        """Settings, without their prefix, are those of all roles."""
        self._stack = ExitStack()
        self._redis = EmbeddedRedis(directory / "redis", directory / "redis.log")
        self.roles: dict[str, RoleProcess] = {}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        for name in ("gateway", *workers):
            own = port if name == "gateway" else free_port()
            environment = {
                "MMI_REDIS_URL": self._redis.url,
                "MMI_PORT": str(own),
                "MMI_HEALTH_PORT": "0" if name == "gateway" else str(own),
                "MMI_AUTH": "off",
                "MMI_LEASE_S": str(LEASE_S),
                "MMI_MAX_DELIVERIES": "10",
                "MMI_KV_CACHE_MIB": "128",
                "MMI_IMAGE_BACKEND": "torch",  # the one that is back soonest
                "MMI_PROGRESS_INTERVAL_S": "0",
                "MMI_CACHE_DIR": str(directory / "cache"),
                "OMP_NUM_THREADS": "1",
                **{f"MMI_{name.upper()}": value for name, value in settings.items()},
            }
            self.roles[name] = RoleProcess(name, own, environment, directory / f"{name}.log")

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
        timeout = httpx.Timeout(30, read=900)
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


def assert_same(answer: Answer, clean: Answer) -> None:
    numbers = [event["sequence_number"] for event in answer.events]
    assert numbers == list(range(len(numbers)))
    assert answer.starts == clean.starts
    assert answer.texts == clean.texts
    assert answer.events[-1]["type"] == clean.events[-1]["type"]
    for picture, other in zip(answer.pictures, clean.pictures, strict=True):
        assert np.array_equal(picture, other)

"""A clone of this repository, its images built and run by Docker compose."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = {"completed", "incomplete", "failed", "cancelled"}
GOOD = {"completed", "incomplete"}
WORKERS = ("text-worker", "image-worker")
ROLES = ("gateway", *WORKERS)
PROMETHEUS_URL = "http://127.0.0.1:9090"
_LONGEST_S = 1800.0
# Merged by compose: the watchdog need not wait for two minutes here.
_OVERRIDE = """services:
  text-worker: {environment: {MMI_STALL_S: "20"}}
"""


def run(*command: str | Path, **options: Any) -> str:
    result = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False, **options
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-4000:]}"
    return str(result.stdout)


def docker(*arguments: str | Path, **options: Any) -> str:
    return run("docker", *arguments, **options)


@dataclass(frozen=True)
class Stack:
    """The running system; `url` is its gateway's."""

    checkout: Path
    url: str

    def compose(self, *arguments: str) -> str:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        profiles = ("--profile", "monitoring")
        return run(*command, *profiles, *arguments, cwd=self.checkout, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        port = self.url.rpartition(":")[2]
        return {
            **os.environ,
            "MMI_PORT": port,
            "COMPOSE_PROJECT_NAME": "mmi-test-deploy",
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
        }

    def build(self) -> float:
        """Build all images; the seconds that it took."""
        began = time.monotonic()
        self.compose("build", "gateway", "image-worker", "text-worker")
        return time.monotonic() - began

    def up(self) -> None:
        """Start everything without the services for GPUs, and wait until it is ready."""
        (self.checkout / "docker-compose.override.yml").write_text(_OVERRIDE)
        self.compose("up", "--detach", "redis", *ROLES, "prometheus")
        self.wait_until_ready()

    # --- containers ---

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service).strip()

    def inspect(self, service: str, what: str) -> str:
        return docker("inspect", "--format", what, self.container(service)).strip()

    def restarts(self, service: str) -> int:
        return int(self.inspect(service, "{{.RestartCount}}"))

    def crash(self, service: str) -> None:
        """SIGKILL to a container's first process: to Docker a crash, after which it restarts."""
        os.kill(int(self.inspect(service, "{{.State.Pid}}")), signal.SIGKILL)

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float = _LONGEST_S) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not in {seconds:g} s\n{self.compose('logs', '--tail', '20')}")
            time.sleep(1)

    def wait_until_ready(self, *services: str) -> None:
        for service in services or ROLES:
            self.wait_until(partial(self._is_healthy, service), f"{service} is healthy")

    def _is_healthy(self, service: str) -> bool:
        return self.inspect(service, "{{.State.Health.Status}}") == "healthy"

    # --- requests ---

    def submit(self, images: int = 1, max_tokens: int = 48) -> str:
        """Start a small story in the background; its id."""
        document = {
            "content": [{"type": "text", "text": "Tell me a story in one picture."}],
            "max_tokens": max_tokens,
            "max_images": images,
            "image": {"steps": 4, "return": "url"},
            "background": True,
        }
        answer = self.retry(lambda: httpx.post(f"{self.url}/generate", json=document, timeout=30))
        return str(answer.json()["id"])

    def get(self, request_id: str) -> dict[str, Any]:
        url = f"{self.url}/v1/requests/{request_id}"
        found: dict[str, Any] = self.retry(lambda: httpx.get(url, timeout=30)).json()
        return found

    def status(self, request_id: str) -> str:
        return str(self.get(request_id)["status"])

    def retry(self, ask: Callable[[], httpx.Response], seconds: float = 900) -> httpx.Response:
        """Until the gateway answers with success: a killed one comes back."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = ask()
                if answer.is_success:
                    return answer
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                pytest.fail(f"{self.url} gave no answer in {seconds} s")
            time.sleep(1)

    def under_load(self, number: int = 4) -> list[str]:
        """Submit stories until a worker holds one; the ids of all."""
        requests: list[str] = []
        while True:
            requests += [self.submit(images=2, max_tokens=200) for _ in range(number)]
            if "in_progress" in map(self.status, reversed(requests[-number:])):
                return requests

    def finish(self, requests: Sequence[str]) -> list[str]:
        """The terminal statuses of requests."""
        self.wait_until(
            lambda: all(self.status(request) in TERMINAL for request in requests),
            "all stories have ended",
        )
        return [self.status(request) for request in requests]

    # --- Prometheus ---

    def prometheus(self, path: str) -> Any:
        """Data of an answer of Prometheus' API."""
        url = f"{PROMETHEUS_URL}/api/v1/{path}"
        return self.retry(lambda: httpx.get(url, timeout=10)).json()["data"]

    def alerts(self) -> dict[str, str]:
        """State of each alert: inactive, pending or firing."""
        [group] = self.prometheus("rules")["groups"]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
        return {rule["name"]: rule["state"] for rule in group["rules"]}

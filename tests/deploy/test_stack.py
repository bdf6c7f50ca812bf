"""`make test-deploy`: the images as an operator builds them, run, killed and taken down.

It needs root, Docker with compose, and mmdebstrap where the public images are out of reach
(apt-get install docker.io docker-compose mmdebstrap).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.stack import Stack, docker, make_base_images, run

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1_000_000
LIMITS = {"gateway": 200, "text-worker": 2500, "image-worker": 2500}

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Built from a fresh clone, with the registry's configuration of this checkout, and started."""
    work = tmp_path_factory.mktemp("images")
    make_base_images(work)
    checkout = tmp_path_factory.mktemp("clone") / "checkout"
    run("git", "clone", "--quiet", f"file://{ROOT}", checkout)
    for path in (ROOT / "deploy" / "pip").iterdir():
        shutil.copy(path, checkout / "deploy" / "pip")
    stack = Stack(checkout, "http://127.0.0.1:18042")
    stack.compose("build", "gateway", "image-worker", "text-worker")
    stack.compose("--profile", "monitoring", "up", "--detach", "redis", "gateway", "text-worker")
    stack.compose("--profile", "monitoring", "up", "--detach", "image-worker", "prometheus")
    stack.wait_until_ready()
    yield stack
    stack.compose("--profile", "monitoring", "down", "--volumes")


@pytest.mark.parametrize("name", LIMITS)
def test_images_are_small_and_hold_no_tools(stack: Stack, name: str) -> None:
    image = f"mm-interleaved/{name}:0.1.0"
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    assert size <= LIMITS[name] * MEGABYTE
    look = "for tool in pip gcc g++ cc; do command -v $tool; done; id -u"
    found = docker("run", "--rm", "--entrypoint", "sh", image, "-c", look)
    assert found == "10001\n"


def test_a_source_change_installs_nothing(stack: Stack) -> None:
    source = stack.checkout / "service" / "__init__.py"
    source.write_text(source.read_text() + "# changed\n")
    command = ["docker", "build", "--progress", "plain", "--target", "text-worker", "."]
    built = subprocess.run(
        command, cwd=stack.checkout, env=stack.environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-4000:]
    steps = re.findall(r"^#(\d+) \[(\S*packages|builder) .*RUN", built.stderr, re.M)
    assert steps
    for number, _ in steps:
        assert f"#{number} CACHED" in built.stderr


def test_smoke(stack: Stack) -> None:
    assert run(ROOT / "deploy" / "smoke.sh", stack.url).startswith("ok: ")


def test_prometheus_sees_every_role_and_the_alerts(stack: Stack) -> None:
    targets = stack.retry(lambda: httpx.get("http://127.0.0.1:9090/api/v1/targets")).json()
    found = {t["labels"]["job"]: t["health"] for t in targets["data"]["activeTargets"]}
    assert found == dict.fromkeys(("gateway", "text-worker", "image-worker"), "up")
    rules = httpx.get("http://127.0.0.1:9090/api/v1/rules").json()["data"]["groups"]
    assert [rule["name"] for rule in rules[0]["rules"]]


@pytest.mark.parametrize("service", ["gateway", "text-worker", "image-worker", "redis"])
def test_a_killed_container_costs_no_request(stack: Stack, service: str) -> None:
    requests = [stack.submit() for _ in range(4)]
    docker("kill", "--signal", "KILL", stack.container(service))
    # Docker takes a kill by hand for a stop: an operator's supervisor starts it again.
    docker("start", stack.container(service))
    assert set(stack.finish(requests)) <= {"completed", "incomplete"}


KILL_ENGINE = """
import os, pathlib, signal
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text().startswith("VLLM::Engine"):
        os.kill(int(path.parent.name), signal.SIGKILL)
        print("killed")
"""


def test_a_killed_engine_costs_no_request(stack: Stack) -> None:
    requests = [stack.submit() for _ in range(4)]
    container = stack.container("text-worker")
    assert "killed" in docker("exec", container, "python", "-c", KILL_ENGINE)
    assert set(stack.finish(requests)) <= {"completed", "incomplete"}


def test_data_outlives_the_containers(stack: Stack) -> None:
    request = stack.submit()
    stack.finish([request])
    stack.compose("--profile", "monitoring", "down")
    stack.compose("up", "--detach", "redis", "gateway", "text-worker", "image-worker")
    assert stack.status(request) in {"completed", "incomplete"}

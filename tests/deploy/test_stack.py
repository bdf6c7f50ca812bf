"""`make test-deploy`: the images as an operator builds them, run, killed and taken down.

It needs root, Docker with compose, and mmdebstrap where the public images are out of reach
(apt-get install docker.io docker-compose mmdebstrap). Its figures go to out/deploy.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.base_images import hand_on_registry, make_base_images
from tests.deploy.engine import docker_engine
from tests.deploy.stack import GOOD, ROLES, ROOT, Stack, docker, run

MEGABYTE = 1_000_000
LIMITS = {"gateway": 200, "text-worker": 2500, "image-worker": 2500}
FIGURES = ROOT / "out" / "deploy.json"

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What was measured."""
    measured: dict[str, Any] = {"image_mb": {}, "stories_through_kills": {}}
    yield measured
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(measured, indent=2) + "\n")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, figures: dict[str, Any]) -> Iterator[Stack]:
    """Built from a fresh clone, and started."""
    work = tmp_path_factory.mktemp("images")
    with docker_engine(work / "dockerd.log"):
        make_base_images(work)
        checkout = tmp_path_factory.mktemp("clone") / "checkout"
        run("git", "clone", "--quiet", f"file://{ROOT}", checkout)
        hand_on_registry(checkout / "deploy" / "pip")
        stack = Stack(checkout, "http://127.0.0.1:18042")
        try:
            figures["build_s"] = round(stack.build(), 1)
            began = time.monotonic()
            stack.up()
            figures["first_start_s"] = round(time.monotonic() - began, 1)
            yield stack
        finally:
            stack.compose("down", "--volumes")
            left = docker("ps", "--all", "--quiet", "--filter", "name=mmi-test-deploy")
        assert left == ""


@pytest.mark.parametrize("name", LIMITS)
def test_images_are_small_and_hold_no_tools(
    stack: Stack, figures: dict[str, Any], name: str
) -> None:
    image = f"mm-interleaved/{name}:0.1.0"
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    figures["image_mb"][name] = round(size / MEGABYTE)
    assert size <= LIMITS[name] * MEGABYTE
    look = "for tool in pip gcc g++ cc; do command -v $tool; done; id -u"
    found = docker("run", "--rm", "--entrypoint", "sh", image, "-c", look)
    assert found == "10001\n"


def test_smoke(stack: Stack) -> None:
    assert run(ROOT / "deploy" / "smoke.sh", stack.url).startswith("ok: ")


def test_a_story_with_an_image(stack: Stack) -> None:
    document = {
        "content": [{"type": "text", "text": "Tell me a story in one picture."}],
        "draw_now": True,
        "max_tokens": 48,
        "max_images": 1,
        "image": {"steps": 4},
    }
    answer = httpx.post(f"{stack.url}/generate", json=document, timeout=900).json()
    assert answer["status"] in GOOD
    assert [part["type"] for part in answer["content"]][0] == "image"


def test_prometheus_sees_every_role_and_the_alerts(stack: Stack) -> None:
    stack.wait_until(lambda: targets(stack) == dict.fromkeys(ROLES, "up"), "all targets are up")
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert stack.alerts().keys() == {rule["alert"] for rule in rules}


def targets(stack: Stack) -> dict[str, str]:
    found = stack.prometheus("targets")["activeTargets"]
    return {target["labels"]["job"]: target["health"] for target in found}


def test_an_alert_is_raised_and_goes_away(stack: Stack) -> None:
    stack.compose("stop", "gateway")
    try:
        stack.wait_until(lambda: stack.alerts()["MMIGatewayAbsent"] == "firing", "an alert", 600)
    finally:
        stack.compose("start", "gateway")
    stack.wait_until(lambda: stack.alerts()["MMIGatewayAbsent"] == "inactive", "its end", 600)


@pytest.mark.parametrize("service", [*ROLES, "redis"])
def test_a_killed_container_costs_no_request(
    stack: Stack, figures: dict[str, Any], service: str
) -> None:
    requests, before = stack.under_load(), stack.restarts(service)
    stack.crash(service)
    assert set(stack.finish(requests)) <= GOOD
    figures["stories_through_kills"][f"SIGKILL of {service}"] = len(requests)
    stack.wait_until_ready()
    assert stack.restarts(service) == before + 1


SIGNAL_ENGINE = """
import os, pathlib, signal
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text().startswith("VLLM::Engine"):
        os.kill(int(path.parent.name), signal.SIG{name})
        print("done")
"""


@pytest.mark.parametrize("name", ["KILL", "STOP"])
def test_a_dead_or_hung_engine_costs_no_request(
    stack: Stack, figures: dict[str, Any], name: str
) -> None:
    requests, before = stack.under_load(), stack.restarts("text-worker")
    command = ("python", "-c", SIGNAL_ENGINE.format(name=name))
    assert docker("exec", stack.container("text-worker"), *command) == "done\n"
    assert set(stack.finish(requests)) <= GOOD
    figures["stories_through_kills"][f"SIG{name} of the engine"] = len(requests)
    # By the watchdog, at once or after MMI_STALL_S; the worker's last words say so.
    assert stack.restarts("text-worker") == before + 1
    logs = stack.compose("logs", "text-worker")
    assert "this worker hands back its turns and exits" in logs
    stack.wait_until_ready()


PROCESSES = """
import pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    print(path.read_text())
"""


def test_no_container_has_zombies(stack: Stack) -> None:
    for service in ROLES:
        processes = docker("exec", stack.container(service), "python", "-c", PROCESSES)
        states = re.findall(r"^\d+ \(.*\) (\w) ", processes, re.M)
        assert states
        assert "Z" not in states


def test_data_outlives_the_containers(stack: Stack, figures: dict[str, Any]) -> None:
    request = stack.submit()
    assert set(stack.finish([request])) <= GOOD
    answer = stack.get(request)
    stack.compose("down")
    began = time.monotonic()
    stack.up()
    figures["second_start_s"] = round(time.monotonic() - began, 1)
    assert stack.get(request) == answer
    assert run(ROOT / "deploy" / "smoke.sh", stack.url).startswith("ok: ")


def test_a_source_change_installs_nothing(stack: Stack, figures: dict[str, Any]) -> None:
    source = stack.checkout / "service" / "__init__.py"
    source.write_text(source.read_text() + "# changed\n")
    began = time.monotonic()
    for target in ROLES:
        check_cached(stack, target)
    figures["rebuild_s"] = round(time.monotonic() - began, 1)


def check_cached(stack: Stack, target: str) -> None:
    command = ["docker", "build", "--progress", "plain", "--target", target, "."]
    built = subprocess.run(
        command, cwd=stack.checkout, env=stack.environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-4000:]
    steps = re.findall(r"^#(\d+) \[(\S*packages|builder) .*RUN", built.stderr, re.M)
    assert steps
    for number, _ in steps:
        assert f"#{number} CACHED" in built.stderr

"""The started processes of the roles: what they refuse, whom they admit, how they end."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model.checkpoint.shipped import SHIPPED
from service.config import child_environment
from service.local.embedded_redis import EmbeddedRedis, free_port

TINY = SHIPPED.with_name("tiny")
COMMAND = [sys.executable, "-m", "service"]


def environment(**settings: str) -> dict[str, str]:
    inherited = child_environment({})
    plain = {name: value for name, value in inherited.items() if not name.startswith("MMI_")}
    return plain | settings


@contextlib.contextmanager
def started(**settings: str) -> Iterator[httpx.Client]:
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "gateway"],
        env=environment(
            MMI_PORT=str(port), **{"MMI_HEALTH_PORT": "0", "MMI_DRAIN_S": "0"} | settings
        ),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            give_up = time.monotonic() + 300
            while time.monotonic() < give_up and process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        break
                time.sleep(0.05)
            assert process.poll() is None
            yield client
    finally:
        process.terminate()
        process.wait(30)


def refusal(role: str = "gateway", **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, role],
        env=environment(MMI_PORT=str(free_port()), **settings),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_a_key_file_it_does_not_start() -> None:
    ended = refusal()

    assert ended.returncode == 2
    assert "mmi keys" in ended.stderr
    assert "MMI_API_KEYS_FILE" in ended.stderr and "MMI_AUTH=off" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_key_file_that_cannot_be_read_stops_it_too(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    ended = refusal(MMI_API_KEYS_FILE=str(missing))

    assert ended.returncode == 2
    assert str(missing) in ended.stderr and "Traceback" not in ended.stderr


def test_only_a_key_lets_a_client_in(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.json"
    made = subprocess.run(
        [*COMMAND, "keys", str(key_file), "--owner", "alice"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    settings = {"MMI_REDIS_URL": redis_server.url, "MMI_API_KEYS_FILE": str(key_file)}
    with started(**settings) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/metrics").status_code == 404
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_probes_and_metrics_have_a_port_of_their_own(redis_server: EmbeddedRedis) -> None:
    health = free_port()
    with started(
        MMI_REDIS_URL=redis_server.url, MMI_AUTH="off", MMI_HEALTH_PORT=str(health)
    ) as client:
        own = httpx.Client(base_url=f"http://127.0.0.1:{health}", trust_env=False)
        assert client.get("/v1/models").status_code == 200
        metrics = own.get("/metrics").text
        codes = [own.get(path).status_code for path in ("/livez", "/readyz", "/startupz")]
        assert client.get("/metrics").status_code == 404
        own.close()
    assert codes == [200, 200, 200]
    assert 'mmi_http_requests_total{route="/v1/models",status="2xx"} 1.0' in metrics
    assert "mmi_queued_work{" in metrics


def test_a_health_port_that_is_taken_stops_a_gateway_with_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = refusal(MMI_AUTH="off", MMI_HEALTH_PORT=str(port))
    assert ended.returncode == 2
    assert str(port) in ended.stderr and "MMI_HEALTH_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_authentication_can_be_switched_off(redis_server: EmbeddedRedis) -> None:
    with started(MMI_REDIS_URL=redis_server.url, MMI_AUTH="off") as client:
        assert client.get("/v1/models").status_code == 200


def test_a_text_worker_whose_cache_is_too_small_says_what_it_needs(tmp_path: Path) -> None:
    ended = refusal(
        "text-worker",
        MMI_CHECKPOINT=str(SHIPPED),
        MMI_CACHE_DIR=str(tmp_path),
        MMI_HEALTH_PORT="0",
        MMI_KV_CACHE_MIB="8",
    )
    assert ended.returncode == 1
    assert "while starting its engine: CacheTooSmall: a cache of 8 MiB holds" in ended.stderr
    assert "MMI_KV_CACHE_MIB" in ended.stderr


@pytest.mark.parametrize(
    "role", ["image-worker", pytest.param("text-worker", marks=pytest.mark.slow)]
)
def test_a_worker_that_is_not_wanted_any_more_ends_while_it_starts(
    role: str, tmp_path: Path
) -> None:
    """As the first process of a container would: its engine takes minutes to start."""
    health = free_port()
    settings = {"MMI_CHECKPOINT": str(TINY), "MMI_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, role], env=environment(MMI_HEALTH_PORT=str(health), **settings)
    )
    while True:
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{health}"
            assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
            assert httpx.get(f"{url}/startupz", trust_env=False).status_code == 503
            break
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    give_up = time.monotonic() + 120
    while descendants := _started_with(str(tmp_path)):
        assert time.monotonic() < give_up, descendants
        time.sleep(0.2)


def _started_with(setting: str) -> list[str]:
    """Commands of the running processes that have a setting in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting.encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_bytes().decode())
    return found

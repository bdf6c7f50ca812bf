"""The started process of a gateway stops gracefully."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.config import child_environment
from service.gateway.stream.sse import GOODBYE
from service.local.embedded_redis import EmbeddedRedis, free_port


@pytest.fixture
def drained(redis_server: EmbeddedRedis, tmp_path: Path) -> tuple[bytes, int]:
    """The rest of a stream that was open at SIGTERM, and the exit status."""
    port = free_port()
    settings = {
        "MMI_REDIS_URL": redis_server.url,
        "MMI_AUTH": "off",
        "MMI_PORT": str(port),
        "MMI_HEALTH_PORT": "0",
        "MMI_DRAIN_S": "0.5",
        "MMI_NAMESPACE": "drained",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "gateway"],
            env=child_environment(settings),
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            give_up = time.monotonic() + 60
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None and time.monotonic() < give_up
                time.sleep(0.05)
            # No worker runs, so that the stream stays open.
            document = {"content": [{"type": "text", "text": "A cat."}], "stream": True}
            rest = b""
            with client.stream("POST", "/generate", json=document, timeout=30) as response:
                for chunk in response.iter_bytes():
                    if not rest:
                        os.kill(process.pid, signal.SIGTERM)
                    rest += chunk
        return rest, process.wait(30)
    finally:
        process.kill()
        process.wait()


def test_open_streams_end_with_a_hint(drained: tuple[bytes, int]) -> None:
    rest, status = drained

    assert rest.startswith(b"retry: ") and b"event: response.created" in rest
    assert rest.endswith(GOODBYE) and b"response.cancelled" not in rest
    assert status == 0

from __future__ import annotations

import socket

import httpx
import pytest

from service.telemetry.health import HealthServer


async def test_probes_tell_what_the_role_says() -> None:
    state = {"live": True, "ready": False}
    refreshed: list[bool] = []

    async def ready() -> bool:
        return state["ready"]

    async def refresh() -> None:
        refreshed.append(True)

    server = HealthServer("127.0.0.1", 0, live=lambda: state["live"], ready=ready, refresh=refresh)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            paths = ("/livez", "/startupz", "/readyz")
            assert [(await client.get(path)).status_code for path in paths] == [200, 503, 503]
            state.update(live=False, ready=True)
            assert [(await client.get(path)).status_code for path in paths] == [503, 200, 200]
            metrics = await client.get("/metrics")
            assert metrics.is_success and "process_cpu_seconds_total" in metrics.text
            assert refreshed == [True]
    finally:
        await server.stop()
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{server.port}/livez")


async def test_a_taken_port_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:

        async def ready() -> bool:
            return True

        port = taken.getsockname()[1]
        server = HealthServer("127.0.0.1", port, live=lambda: True, ready=ready)
        with pytest.raises(OSError, match="in use"):
            await server.start()

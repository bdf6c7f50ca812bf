"""Probes."""

from __future__ import annotations

from tests.service.gateway.conftest import Client


async def test_a_process_that_drains_is_alive_but_not_ready(client: Client) -> None:
    assert (await client.http.get("/readyz")).json() == {"status": "ok"}

    client.gateway.relay.stopping.set()

    assert (await client.http.get("/readyz")).status_code == 503
    assert (await client.http.get("/startupz")).status_code == 503
    assert (await client.http.get("/livez")).status_code == 200


async def test_metrics_are_not_on_the_public_port(client: Client) -> None:
    assert (await client.http.get("/metrics")).status_code == 404

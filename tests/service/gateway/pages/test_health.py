"""Probes and metrics."""

from __future__ import annotations

from tests.service.gateway.conftest import Client, StartGateway


async def test_a_process_that_drains_is_alive_but_not_ready(client: Client) -> None:
    assert (await client.http.get("/readyz")).json() == {"status": "ok"}

    client.gateway.relay.stopping.set()

    assert (await client.http.get("/readyz")).status_code == 503
    assert (await client.http.get("/startupz")).status_code == 503
    assert (await client.http.get("/livez")).status_code == 200


async def test_metrics_name_the_queue(start_gateway: StartGateway) -> None:
    async with start_gateway(open_metrics=True) as client:
        text = (await client.http.get("/metrics")).text

    assert "mmi_queued_work" in text and "mmi_requests_total" in text

"""One line and the counts of every HTTP request."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from tests.service.gateway.conftest import Client

TEXT = [{"type": "text", "text": "A cat."}]


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The access lines so far."""
    return [
        record for record in caplog.records if record.name == "service.gateway.middleware.access"
    ]


def count(route: str, status: str) -> float | None:
    labels = {"route": route, "status": status}
    return REGISTRY.get_sample_value("mmi_http_requests_total", labels)


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


async def test_a_generation_is_told_once_and_with_its_own_id(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    before = count("/generate", "2xx") or 0
    answer = await client.post({"content": TEXT}, headers={"X-Request-ID": "mine"})

    [line] = lines(caplog)
    fields = vars(line)
    expected = {
        "request_id": answer.json()["id"],
        "x_request_id": "mine",
        "owner": "anonymous",
        "method": "POST",
        "route": "/generate",
        "status": 200,
        "complete": True,
    }
    assert fields | expected == fields
    assert 0 < fields["answered_s"] <= fields["duration_s"]
    assert count("/generate", "2xx") == before + 1


async def test_a_reader_that_leaves_a_stream_did_not_get_it_all(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    document = {"content": TEXT, "stream": True, "max_tokens": 5000}
    await client.events("POST", "/generate", stop_after=3, json=document)
    while not lines(caplog):
        await client.http.get("/livez")
    fields = vars(lines(caplog)[0])
    assert (fields["status"], fields["complete"]) == (200, False)
    assert fields["duration_s"] > fields["answered_s"]


async def test_what_is_not_found_and_what_is_refused(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    before = count("unknown", "4xx") or 0
    await client.http.get("/nowhere/at/all")
    await client.post({"content": []})
    await client.http.get("/readyz")
    told = [(r.route, r.status, "owner" in vars(r)) for r in lines(caplog)]
    assert told == [("unknown", 404, False), ("/generate", 422, True)]
    assert count("unknown", "4xx") == before + 1


async def test_every_route_has_its_series_from_the_start(client: Client) -> None:
    for route in ("/v1/requests/{request_id}", "/v1/chat/completions", "unknown"):
        for status in ("2xx", "3xx", "4xx", "5xx"):
            assert count(route, status) is not None
    assert count("/livez", "2xx") is None

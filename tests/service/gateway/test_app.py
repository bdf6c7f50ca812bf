"""The application's assembly: CORS, and errors that nobody expected."""

from __future__ import annotations

import logging

import pytest

from tests.service.gateway.conftest import Client, StartGateway

TEXT = [{"type": "text", "text": "A cat."}]


async def test_cors_is_off_unless_configured(start_gateway: StartGateway) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with start_gateway(cors_origins=("https://app.example",)) as client:
        allowed = await client.http.options("/generate", headers=headers)
        other = await client.http.options("/generate", headers=headers | {"Origin": "https://x.y"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other.headers


async def test_cors_is_off_by_default(client: Client) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = await client.http.options("/generate", headers=headers)
    answer = await client.post({"content": TEXT}, headers={"Origin": "https://app.example"})

    assert preflight.status_code == 405 and answer.status_code == 200
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_bug_tells_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object) -> None:
        raise RuntimeError("secret path /etc/shadow")

    monkeypatch.setattr(client.gateway.admissions, "accept", broken)
    with caplog.at_level(logging.CRITICAL):
        response = await client.post({"content": [{"type": "text", "text": "my prompt"}]})

    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal_error"


async def test_redis_away_is_503(start_gateway: StartGateway) -> None:
    async with start_gateway() as client:

        async def away(*args: object, **options: object) -> None:
            from service.errors import ConnectionLost

            raise ConnectionLost

        client.gateway.broker.script = away  # type: ignore[method-assign, assignment]
        response = await client.post({"content": TEXT})

    assert response.status_code == 503
    assert response.json()["error"]["retryable"] is True

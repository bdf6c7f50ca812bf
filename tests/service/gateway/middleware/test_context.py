"""What surrounds every request."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse

from service.gateway.middleware.context import RequestContext
from tests.service.gateway.conftest import Client


async def test_headers_of_all_answers(client: Client) -> None:
    for path in ("/livez", "/nothing", "/", "/docs", "/openapi.json"):
        response = await client.http.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers or response.headers["server"] == "uvicorn"


async def test_foreign_hosts_are_refused(client: Client) -> None:
    foreign = await client.http.get("/v1/models", headers={"Host": "evil.example"})
    probe = await client.http.get("/livez", headers={"Host": "10.0.0.7:8000"})
    own = await client.http.get("/v1/models", headers={"Host": "LOCALHOST:80"})

    assert foreign.status_code == 400
    assert foreign.json()["error"]["code"] == "host_not_allowed"
    assert (probe.status_code, own.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mmi.example.com", 200),
        ("a.internal:8000", 200),
        ("127.0.0.1:18080", 200),  # a forwarded port
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
    ],
)
async def test_own_names_are_allowed_beside_those_of_the_setting(host: str, status: int) -> None:
    app = RequestContext(PlainTextResponse("ok"), ("mmi.example.com", "*.internal"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.get("/v1/models", headers={"Host": host})
    assert reply.status_code == status

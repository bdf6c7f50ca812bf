"""The two pages."""

from __future__ import annotations

from tests.service.gateway.conftest import Client


async def test_pages_load_nothing_from_outside(client: Client) -> None:
    for path in ("/", "/docs"):
        text = (await client.http.get(path)).text
        assert "{{nonce}}" not in text
        assert "http://" not in text and "https://" not in text and 'src="' not in text

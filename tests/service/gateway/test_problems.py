"""Errors as HTTP answers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.service.gateway.conftest import StartGateway
from tests.service.gateway.test_auth import write_keys

TEXT = [{"type": "text", "text": "A cat."}]


async def test_every_refusal_for_now_says_when_to_come_back(
    start_gateway: StartGateway, key_file: Path
) -> None:
    scopes = ["generate", "read"]
    headers = write_keys(key_file, busy=scopes, fast=scopes, large=scopes)
    document = json.loads(key_file.read_text())
    document["keys"][0]["concurrent_requests"] = 1
    document["keys"][1]["requests_per_minute"] = 1
    key_file.write_text(json.dumps(document))
    wanted = {"content": TEXT, "stream": True}
    refused = {}
    options = {"auth": "keys", "api_keys_file": key_file, "max_text_work": 5_000}
    async with start_gateway(**options) as client:
        client.workers.text.hold.clear()
        background = {"content": TEXT, "background": True}
        for owner, times in (("busy", 1), ("fast", 10)):
            for _ in range(times):
                await client.post(background, headers=headers[owner])
        refused["too_many_concurrent"] = await client.post(wanted, headers=headers["busy"])
        refused["rate_limited"] = await client.post(wanted, headers=headers["fast"])
        wanted["max_tokens"] = 3_000
        refused["queue_full"] = await client.post(wanted, headers=headers["large"])

    for code, response in refused.items():
        assert response.status_code == 429, code
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["retryable"] is True
        assert int(response.headers["retry-after"]) >= 1

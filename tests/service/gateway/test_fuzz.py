"""Whatever comes in: no 5xx, one form of refusal, memory flat, and the service goes on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.service.gateway.conftest import Client
from tests.service.gateway.mutations import mutated_requests

pytestmark = pytest.mark.fuzz

NUM_BODIES = int(os.environ.get("MMI_FUZZ_BODIES", "10000"))
NUM_EXAMPLES = int(os.environ.get("MMI_FUZZ_EXAMPLES", "60"))
TEXT = [{"type": "text", "text": "A cat."}]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def send_all(client: Client, seed: int, count: int) -> Counter[int]:
    """Send mutated requests, eight at a time; the statuses."""
    statuses: Counter[int] = Counter()
    waiting = mutated_requests(seed, count)

    async def sender() -> None:
        for path, body, content_type in waiting:
            headers = {"Content-Type": content_type}
            response = await client.http.post(path, content=body, headers=headers, timeout=600)
            statuses[response.status_code] += 1
            assert response.status_code < 500, (response.text, body[:2000], client.workers.errors)
            if response.status_code >= 400:
                error = response.json()["error"]
                assert set(error) == {
                    "type", "code", "message", "param", "request_id", "retryable",
                }  # fmt: skip
                assert "Traceback" not in error["message"]

    await asyncio.gather(*(sender() for _ in range(8)))
    return statuses


@pytest.mark.timeout(1800)
async def test_mutated_requests(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    await send_all(client, 1, NUM_BODIES // 10)
    before = resident_mib()

    statuses = await send_all(client, 2, NUM_BODIES)

    # This process holds the gateway, both scripted workers and the client.
    assert resident_mib() - before < 64
    assert set(statuses) <= {200, 400, 404, 413, 422, 429}
    assert statuses[200] and statuses[400] and statuses[422]
    assert (await client.post({"content": TEXT})).status_code == 200


@pytest.mark.timeout(1800)
async def test_openapi_document_is_kept(client: Client) -> None:
    document = (await client.http.get("/openapi.json")).json()
    url = str(client.http.base_url)

    await asyncio.to_thread(run_schemathesis, document, url)

    assert (await client.post({"content": TEXT})).status_code == 200


def run_schemathesis(document: dict[str, Any], url: str) -> None:
    """Requests made from the document, all of its operations."""
    schema = schemathesis.openapi.from_dict(document)
    settings = hypothesis.settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings
        @hypothesis.given(case=operation.as_strategy())
        def call(case: schemathesis.Case) -> None:
            response = case.call(base_url=url, timeout=600)
            case.validate_response(response, checks=checks)

        call()

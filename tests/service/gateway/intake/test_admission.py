"""What is settled on admission: limits of the owner, the idempotency key, seeds, the trace."""

from __future__ import annotations

import pytest

from service.broker.owners import OwnerLimits
from service.gateway.auth import Caller
from service.gateway.intake.admission import Defaults, idempotency_key_of
from service.gateway.problems import Problem
from tests.service.gateway.conftest import Client

TEXT = [{"type": "text", "text": "A cat."}]


def test_limits_of_a_key_go_before_the_servers() -> None:
    defaults = Defaults("m", "cancel", 1000, 4, OwnerLimits(3, 60))
    scopes = frozenset({"generate"})

    assert defaults.limits_of(Caller("alice", scopes)) == OwnerLimits(3, 60)
    own = Caller("alice", scopes, requests_per_minute=5)
    assert defaults.limits_of(own) == OwnerLimits(max_concurrent=3, requests_per_minute=5)


def test_a_body_is_hashed_only_for_a_key() -> None:
    def fail() -> str:
        raise AssertionError

    assert idempotency_key_of(None, fail) is None
    key = idempotency_key_of("abc", lambda: "digest")
    assert key is not None and (key.key, key.fingerprint) == ("abc", "digest")
    for bad in ("", "with space", "x" * 256, "\u00e4"):
        with pytest.raises(Problem):
            idempotency_key_of(bad, fail)


async def test_a_valid_traceparent_travels_with_the_request(client: Client) -> None:
    valid = f"00-{'a' * 32}-{'b' * 16}-01"
    for sent, kept in ((valid, valid), ("nonsense", None)):
        answer = await client.post({"content": TEXT}, headers={"traceparent": sent})
        status = await client.gateway.queue.status(answer.json()["id"])
        assert status.request.traceparent == kept

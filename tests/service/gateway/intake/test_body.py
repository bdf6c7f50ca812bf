"""Bodies: their budget, and what an idempotency key stands for."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from service.errors import QueueFull
from service.gateway.intake.body import BodyBudget, IntakeLimits, RawBody, declared_length
from service.gateway.problems import Problem


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_a_reservation_ends_with_its_block() -> None:
    budget = BodyBudget(IntakeLimits(body_bytes=100, bodies_bytes=150))
    with budget.reserve(request(content_length="80")):
        assert budget.used == 80
        with pytest.raises(QueueFull), budget.reserve(request(content_length="80")):
            pass
    assert budget.used == 0
    # No more than the limit of one body is reserved: a larger body is refused while it is read.
    with budget.reserve(request(content_length="5000")), pytest.raises(QueueFull):
        budget.take(51)


@pytest.mark.parametrize("value", ["-1", "1e3", "9" * 16, "\u0661"])
def test_a_length_is_a_number(value: str) -> None:
    with pytest.raises(Problem):
        declared_length(request(content_length=value))


def test_a_fingerprint_depends_on_path_document_and_files() -> None:
    body = RawBody(b"{}", {"a": b"1", "b": b"2"})

    assert body.fingerprint("/x") == RawBody(b"{}", {"b": b"2", "a": b"1"}).fingerprint("/x")
    others = (RawBody(b"{ }", body.uploads), RawBody(b"{}", {"a": b"2", "b": b"1"}), RawBody(b"{}"))
    found = {one.fingerprint("/x") for one in others} | {body.fingerprint("/y")}
    assert len(found | {body.fingerprint("/x")}) == 5
    assert RawBody({"n": 1}).fingerprint("/x") == RawBody(b'{"n": 1}').fingerprint("/x")

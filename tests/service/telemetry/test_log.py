"""Logs are one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from service.telemetry import log


@pytest.fixture
def request_id() -> Iterator[str]:
    token = log.request_id_var.set("req_1")
    yield "req_1"
    log.request_id_var.reset(token)


def formatted(message: str, *args: object, **options: Any) -> dict[str, Any]:
    exc_info = options.pop("exc_info", None)
    record = logging.LogRecord("service.x", logging.WARNING, "x.py", 1, message, args, exc_info)
    record.created, record.msecs = 1.25, 250.0
    vars(record).update(options)
    line = log.RoleFormatter("gateway").format(record)
    assert "\n" not in line
    return dict(json.loads(line))


def test_fields_of_a_record() -> None:
    assert formatted("answering %s", "QueueFull", owner="alice") == {
        "time": "1970-01-01T00:00:01.250Z",
        "level": "warning",
        "role": "gateway",
        "logger": "service.x",
        "message": "answering QueueFull",
        "owner": "alice",
    }


def test_the_requests_id_is_added(request_id: str) -> None:
    assert formatted("x")["request_id"] == request_id


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        document = formatted("failed", exc_info=sys.exc_info())

    assert document["exception"].endswith("ValueError: broken")


def test_values_without_a_json_form_are_strings() -> None:
    assert formatted("x", where={1}, error=ValueError("no")) | {"time": ""} == {
        "time": "",
        "level": "warning",
        "role": "gateway",
        "logger": "service.x",
        "message": "x",
        "where": "{1}",
        "error": "ValueError: no",
    }

"""A request that failed, as an HTTP error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.errors import ServiceError
from service.messages import RequestStatus


def _all_errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_errors(child)


def status_of_code(code: str) -> int:
    """The HTTP status of an error that a worker wrote into a record."""
    return next((kind.status for kind in _all_errors() if kind.code == code), 500)


def failure_of(status: RequestStatus) -> tuple[int, dict[str, Any]] | None:
    """HTTP status and body of a failed request; None for all others."""
    if status.state != "failed" or status.error is None:
        return None
    error = status.error.model_dump() | {"param": None, "request_id": status.request.request_id}
    return status_of_code(status.error.code), {"error": error}

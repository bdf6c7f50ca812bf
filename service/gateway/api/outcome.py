"""A request that failed, as an HTTP error."""

from __future__ import annotations

from typing import Any

from service.messages import RequestStatus


def failure_of(status: RequestStatus) -> tuple[int, dict[str, Any]] | None:
    """HTTP status and body of a failed request; None for all others."""
    if status.state != "failed" or status.error is None:
        return None
    where = {"param": None, "request_id": status.request.request_id}
    return status.error.status, {"error": status.error.failure.model_dump() | where}

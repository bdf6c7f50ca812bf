"""Errors as HTTP answers, and the table of what can be wrong with a request.

A message is a fixed text whose only variable parts are field names and configured limits, never
the text of an exception or of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.errors import CapacityError, RequestError, ServiceError
from service.messages import RequestStatus


@dataclass(frozen=True)
class ProblemKind:
    """One row of the table."""

    status: int
    message: str
    type: str = RequestError.type
    retryable: bool = False


TABLE: dict[str, ProblemKind] = {
    # The body as a whole
    "invalid_json": ProblemKind(400, "The body is not valid JSON."),
    "invalid_multipart": ProblemKind(400, "The body is not valid multipart/form-data."),
    "unsupported_media_type": ProblemKind(
        415, "Send the request as application/json or multipart/form-data."
    ),
    "body_too_large": ProblemKind(413, "The body is larger than {limit} bytes."),
    "body_too_slow": ProblemKind(408, "The body did not arrive within {limit} s.", retryable=True),
    # Fields
    "missing_field": ProblemKind(422, "A required field is missing: {param}."),
    "unknown_field": ProblemKind(422, "There is no such field: {param}."),
    "invalid_value": ProblemKind(422, "{param}: {reason}."),
    "unknown_upload": ProblemKind(422, "{param} names a file that the form does not hold."),
    "unused_upload": ProblemKind(422, "No content part names the uploaded file {param}."),
    "too_many_choices": ProblemKind(
        422, "{param} is more than the {limit} answers that are allowed here."
    ),
    "text_too_long": ProblemKind(413, "All text together is longer than {limit} characters."),
    # Images
    "invalid_base64": ProblemKind(422, "{param} is not base64 (nor a data: URL with base64)."),
    "image_format": ProblemKind(
        422, "{param} is not a PNG, JPEG or WebP image (its content decides, not its name)."
    ),
    "image_broken": ProblemKind(422, "{param} is a damaged or truncated image."),
    "image_too_large": ProblemKind(413, "{param} has more than {limit} pixels."),
    "image_too_small": ProblemKind(422, "{param} has a side of fewer than {limit} pixels."),
    "image_bytes": ProblemKind(413, "{param} is larger than {limit} bytes."),
    "images_too_large": ProblemKind(413, "All images together have more than {limit} pixels."),
    "too_many_images": ProblemKind(422, "{param} holds more than {limit} images."),
    "urls_disabled": ProblemKind(
        422, "{param}: this server does not fetch image URLs; send b64 or upload."
    ),
    "url_not_allowed": ProblemKind(422, "{param}: this address is not allowed."),
    "url_failed": ProblemKind(422, "{param}: the image could not be fetched."),
    # Where and who
    "host_not_allowed": ProblemKind(400, "The Host header names another server."),
    "invalid_header": ProblemKind(400, "The header {param} is not valid."),
    "not_found": ProblemKind(404, "There is nothing at this address.", "not_found_error"),
    "model_not_found": ProblemKind(
        404, "There is no such model; see /v1/models.", "not_found_error"
    ),
    "method_not_allowed": ProblemKind(405, "This method is not supported here."),
}


class Problem(RequestError):
    """One kind of the table, with the field that it is about."""

    def __init__(self, code: str, *, param: str | None = None, **values: Any) -> None:
        kind = TABLE[code]
        self.code, self.status, self.type = code, kind.status, kind.type
        self.retryable = kind.retryable
        super().__init__(kind.message.format(param=param or "the body", **values), param=param)


def document(error: ServiceError, request_id: str | None) -> dict[str, Any]:
    """The JSON body of an error answer."""
    return {
        "error": {
            "type": error.type,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "request_id": request_id,
            "retryable": error.retryable,
        }
    }


def failure_of(status: RequestStatus) -> tuple[int, dict[str, Any]] | None:
    """HTTP status and body of a request that failed; None for all others."""
    if status.state != "failed" or status.error is None:
        return None
    where = {"param": None, "request_id": status.request.request_id}
    return status.error.status, {"error": status.error.failure.model_dump() | where}


def headers_of(error: ServiceError) -> dict[str, str]:
    """The headers of an error answer: when to retry, how to authenticate, or to stop sending."""
    if isinstance(error, CapacityError):
        return {"Retry-After": str(max(1, round(error.retry_after_s)))}
    if error.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if error.status == 503:
        return {"Retry-After": "2"}
    if error.status in (408, 413):
        # The rest of the body is not read.
        return {"Connection": "close"}
    return {}

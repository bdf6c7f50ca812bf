"""What is wrong with a request, in detail: one table of codes, statuses and texts.

`service.errors` holds the errors of the whole service; a `Problem` is the gateway's own kind of
`RequestError`, one row of `TABLE`. A message is a fixed text whose only variable parts are field
names and configured limits, never the text of an exception or of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.errors import CapacityError, RequestError, ServiceError

INVALID = "invalid_request_error"


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    status: int
    message: str
    type: str = INVALID
    retryable: bool = False


TABLE: dict[str, Row] = {
    # The body as a whole
    "invalid_json": Row(400, "The body is not valid JSON."),
    "invalid_multipart": Row(400, "The body is not valid multipart/form-data."),
    "unsupported_media_type": Row(
        415, "Send the request as application/json or multipart/form-data."
    ),
    "body_too_large": Row(413, "The body is larger than {limit} bytes."),
    "body_too_slow": Row(408, "The body did not arrive within {limit} s.", retryable=True),
    # Fields
    "missing_field": Row(422, "A required field is missing: {param}."),
    "unknown_field": Row(422, "There is no such field: {param}."),
    "invalid_value": Row(422, "{param}: {reason}."),
    "unknown_upload": Row(422, "{param} names a file that the form does not hold."),
    "unused_upload": Row(422, "No content part names the uploaded file {param}."),
    "too_many_choices": Row(422, "{param} is more than the {limit} answers that are allowed here."),
    "text_too_long": Row(413, "All text together is longer than {limit} characters."),
    # Images
    "invalid_base64": Row(422, "{param} is not base64 (nor a data: URL with base64)."),
    "image_format": Row(
        422, "{param} is not a PNG, JPEG or WebP image (its content decides, not its name)."
    ),
    "image_broken": Row(422, "{param} is a damaged or truncated image."),
    "image_too_large": Row(413, "{param} has more than {limit} pixels."),
    "image_too_small": Row(422, "{param} has a side of fewer than {limit} pixels."),
    "image_bytes": Row(413, "{param} is larger than {limit} bytes."),
    "images_too_large": Row(413, "All images together have more than {limit} pixels."),
    "too_many_images": Row(422, "{param} holds more than {limit} images."),
    "urls_disabled": Row(
        422, "{param}: this server does not fetch image URLs; send b64 or upload."
    ),
    "url_not_allowed": Row(422, "{param}: this address is not allowed."),
    "url_failed": Row(422, "{param}: the image could not be fetched."),
    # Where and who
    "host_not_allowed": Row(400, "The Host header names another server."),
    "invalid_header": Row(400, "The header {param} is not valid."),
    "not_found": Row(404, "There is nothing at this address.", "not_found_error"),
    "model_not_found": Row(404, "There is no such model; see /v1/models.", "not_found_error"),
    "method_not_allowed": Row(405, "This method is not supported here."),
}


class Problem(RequestError):
    """A row of the table, with the field it is about."""

    def __init__(self, code: str, *, param: str | None = None, **values: Any) -> None:
        row = TABLE[code]
        super().__init__(row.message.format(param=param or "the body", **values), param=param)
        self.row = row
        self.name = code


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error."""
    return error.row.status if isinstance(error, Problem) else error.status


def document(error: ServiceError, request_id: str | None) -> dict[str, Any]:
    """The JSON body of an error answer."""
    if isinstance(error, Problem):
        head = {"type": error.row.type, "code": error.name}
        retryable = error.row.retryable
    else:
        head = {"type": error.type, "code": error.code}
        retryable = error.retryable
    tail = {"param": error.param, "request_id": request_id, "retryable": retryable}
    return {"error": head | {"message": error.message} | tail}


def headers_of(error: ServiceError) -> dict[str, str]:
    """Headers that go with an error: when to come back, how to log in, not to go on sending."""
    if isinstance(error, CapacityError):
        return {"Retry-After": str(max(1, round(error.retry_after_s)))}
    status = status_of(error)
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 503:
        return {"Retry-After": "2"}
    return {}

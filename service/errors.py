"""Every error that the service raises on purpose.

    ServiceError
    ├── RequestError                the client can fix it (4xx)
    │   ├── InvalidRequest          400  ├── ContextTooLong       400
    │   ├── InvalidCursor           400  ├── AuthenticationFailed 401
    │   ├── PermissionDenied        403  ├── RequestNotFound      404
    │   ├── BlobNotFound            404  ├── IdempotencyConflict  409
    │   ├── CursorExpired           410  ├── PayloadTooLarge      413
    │   ├── UnsupportedContent      415  └── InvalidImage         422
    ├── CapacityError               too much for now (429, with Retry-After)
    │   ├── QueueFull
    │   ├── RateLimited
    │   └── TooManyConcurrent
    ├── BrokerError                 Redis (503)
    │   ├── ConnectionLost
    │   └── DecodeError
    └── TaskError                   a turn of a request
        ├── Retryable               hand back, run again
        ├── Permanent               ends the request as failed
        ├── Cancelled
        ├── DeadlineExceeded
        └── StaleAttempt            somebody else holds the turn now

The text that a client reads is `message`, fixed per class (or chosen by us from a fixed set); the
text of a foreign exception never gets there.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Base of all; carries what the one HTTP mapping needs."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    text: ClassVar[str] = "The server had an error while processing the request."
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message or self.text)
        self.message = message or self.text
        self.param = param


class RequestError(ServiceError):
    """The client can fix it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    text = "The request is invalid."


class InvalidRequest(RequestError):
    """A field is missing, unknown or out of range."""


class ContextTooLong(RequestError):
    """The content does not fit the model."""

    code = "context_length_exceeded"
    text = "The content does not fit the model's context."


class InvalidCursor(RequestError):
    """The event id is malformed."""

    code = "invalid_cursor"
    text = "The event id is malformed."


class AuthenticationFailed(RequestError):
    """No key, or not one of ours."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    text = "A valid API key is required."


class PermissionDenied(RequestError):
    """The key lacks the scope."""

    status = 403
    type = "permission_error"
    code = "permission_denied"
    text = "The API key does not allow this."


class RequestNotFound(RequestError):
    """There is no such request (any more), or it is somebody else's."""

    status = 404
    type = "not_found_error"
    code = "request_not_found"
    text = "There is no such request."


class BlobNotFound(RequestError):
    """There is no blob of that hash (any more)."""

    status = 404
    type = "not_found_error"
    code = "image_not_found"
    text = "There is no such image."


class IdempotencyConflict(RequestError):
    """The idempotency key was used with another body."""

    status = 409
    type = "conflict_error"
    code = "idempotency_conflict"
    text = "The idempotency key was used with a different request."


class CursorExpired(RequestError):
    """The events at the cursor are gone."""

    status = 410
    type = "gone_error"
    code = "cursor_expired"
    text = "The events after this id are no longer kept."


class PayloadTooLarge(RequestError):
    """The body, or an image in it, is over the limit."""

    status = 413
    code = "payload_too_large"
    text = "The request is too large."


class UnsupportedContent(RequestError):
    """A content type or image format that is not allowed."""

    status = 415
    code = "unsupported_content"
    text = "The content type is not supported."


class InvalidImage(RequestError):
    """The bytes are not a whole image."""

    status = 422
    code = "invalid_image"
    text = "The image cannot be decoded."


class CapacityError(ServiceError):
    """Too much for now; `retry_after_s` says when to come back."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    text = "The server is at capacity."
    retryable = True

    def __init__(self, retry_after_s: float = 1.0, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(CapacityError):
    """The queued work of a stage is at its bound."""

    code = "queue_full"
    text = "The server's queue is full."


class RateLimited(CapacityError):
    """The key's requests per minute are used up."""

    code = "rate_limited"
    text = "Too many requests with this API key."


class TooManyConcurrent(CapacityError):
    """The key has its maximum of requests in progress."""

    code = "too_many_concurrent"
    text = "Too many requests in progress with this API key."


class BrokerError(ServiceError):
    """Redis."""

    status = 503
    type = "unavailable_error"
    code = "unavailable"
    text = "The service is temporarily unavailable."
    retryable = True


class ConnectionLost(BrokerError):
    """Redis cannot be reached, or is loading."""


class DecodeError(BrokerError):
    """What lies in Redis is not what this version writes."""

    status = 500
    type = "server_error"
    code = "internal_error"
    text = ServiceError.text
    retryable = False


class TaskError(ServiceError):
    """A turn of a request."""


class Retryable(TaskError):
    """The turn may succeed if it is run again."""

    code = "temporary_failure"
    retryable = True


class Permanent(TaskError):
    """Running the turn again is no use: the request ends as failed."""

    code = "generation_failed"
    text = "The answer could not be generated."


class Poisoned(Permanent):
    """The turn was delivered too often: it lies in the dead-letter stream."""

    code = "too_many_attempts"
    text = "The answer could not be generated after several attempts."
    retryable = True


class Cancelled(TaskError):
    """The client no longer wants the answer."""

    code = "cancelled"
    text = "The request was cancelled."


class DeadlineExceeded(TaskError):
    """The request's deadline passed."""

    code = "deadline_exceeded"
    text = "The request's deadline passed."


class StaleAttempt(TaskError):
    """Somebody else holds the turn now, or the request has ended: stop without a word."""

    code = "stale_attempt"

"""Every error that the service raises on purpose.

    ServiceError
    ├── RequestError                the client can correct it (4xx)
    │   ├── InvalidRequest          400  ├── ContextTooLong       400
    │   ├── InvalidCursor           400  ├── AuthenticationFailed 401
    │   ├── PermissionDenied        403  ├── RequestNotFound      404
    │   ├── BlobNotFound            404  ├── IdempotencyConflict  409
    │   ├── CursorExpired           410
    │   │   └── EventsReplaced
    │   └── Problem                 one row of the table in service/gateway/problems.py
    ├── CapacityError               too much at present (429, with Retry-After)
    │   ├── QueueFull
    │   ├── RateLimited
    │   └── TooManyConcurrent
    ├── BrokerError                 Redis fails (503)
    │   ├── ConnectionLost
    │   └── CommandRefused
    │       └── GroupMissing
    ├── DecodeError                 stored data has another format (500)
    ├── TaskError                   a turn of a request
    │   ├── Retryable               hand back and run again
    │   ├── Permanent               the request ends as failed
    │   │   └── Poisoned            delivered too often: dead letter
    │   ├── DeadlineExceeded
    │   └── StaleAttempt            another attempt holds the turn now
    ├── StartupError                a process cannot run as it is configured
    │   ├── KeyFileError            service/gateway/auth.py
    │   ├── UnsuitableServer        service/broker/redis/server.py
    │   ├── RedisUnavailable        service/local/embedded_redis.py
    │   └── RoleFailed              service/local/processes.py
    └── RequestRefused              the client's view of an error (service/client/stream.py)

Clients see `message`, which is fixed per class or chosen from a fixed set; they never see the text
of a foreign exception.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """The base of all, with what the HTTP mapping (service/gateway/problems.py) needs."""

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    retryable: bool = False
    text: ClassVar[str] = "The server had an error while processing the request."

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or self.text
        self.param = param
        super().__init__(self.message)


class RequestError(ServiceError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    text = "The request is invalid."


class InvalidRequest(RequestError):
    """The worker cannot run the request with these parameters."""


class ContextTooLong(RequestError):
    code = "context_length_exceeded"
    text = "The content does not fit the model's context."


class InvalidCursor(RequestError):
    code = "invalid_cursor"
    text = "The event id is malformed."


class AuthenticationFailed(RequestError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    text = "A valid API key is required."


class PermissionDenied(RequestError):
    status = 403
    type = "permission_error"
    code = "permission_denied"
    text = "The API key does not allow this."


class RequestNotFound(RequestError):
    """There is no such request (any more), or it belongs to another owner."""

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
    status = 409
    type = "conflict_error"
    code = "idempotency_conflict"
    text = "The idempotency key was used with a different request."


class CursorExpired(RequestError):
    status = 410
    type = "gone_error"
    code = "cursor_expired"
    text = "The events after this id are no longer kept."


class EventsReplaced(CursorExpired):
    """Redis lost events that a reader has received, and others were written in their place."""


class CapacityError(ServiceError):
    """Too much at present; `retry_after_s` says when to come back."""

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
    code = "rate_limited"
    text = "Too many requests with this API key."


class TooManyConcurrent(CapacityError):
    code = "too_many_concurrent"
    text = "Too many requests in progress with this API key."


class BrokerError(ServiceError):
    status = 503
    type = "unavailable_error"
    code = "unavailable"
    text = "The service is temporarily unavailable."
    retryable = True


class ConnectionLost(BrokerError):
    """Redis cannot be reached, or is loading its data."""


class CommandRefused(BrokerError):
    """Redis answered a command or script with an error."""


class GroupMissing(CommandRefused):
    """A task stream or its consumer group does not exist."""


class DecodeError(ServiceError):
    """Stored data does not have the format of this version."""


class TaskError(ServiceError):
    """A turn of a request."""


class Retryable(TaskError):
    """The turn may succeed if it is run again."""

    code = "temporary_failure"
    retryable = True


class Permanent(TaskError):
    """The turn would fail again: the request ends as failed."""

    code = "generation_failed"
    text = "The answer could not be generated."


class Poisoned(Permanent):
    """The turn was delivered too often and lies in the dead-letter stream."""

    code = "too_many_attempts"
    text = "The answer could not be generated after several attempts."
    retryable = True


class DeadlineExceeded(TaskError):
    code = "deadline_exceeded"
    text = "The request's deadline passed."


class StaleAttempt(TaskError):
    """Another attempt holds the turn now, or the request has ended: stop without writing."""

    code = "stale_attempt"


class StartupError(ServiceError):
    """A process cannot run as it is configured; the message says what to change."""

"""A request's answer: the parts of finished turns, their usage, the failure, and the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model.sampling_params import TokenScore
from service.errors import DecodeError
from service.messages.message import Message, Reason, Sha256
from service.messages.request import Request

State = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "incomplete", "failed", "cancelled"})


class TextResult(Message):
    """A finished text part, with the exact ids that were sampled."""

    version: Literal[1] = 1
    type: Literal["text"] = "text"
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenScore, ...] | None = None


class StoredImage(Message):
    """A generated image; its bytes are in the blob store."""

    sha256: Sha256
    mime: str
    width: int
    height: int
    seed: int


class ImageResult(StoredImage):
    """A finished image part."""

    version: Literal[1] = 1
    type: Literal["image"] = "image"

    @property
    def image(self) -> StoredImage:
        """The image without the fields of a stored part."""
        return StoredImage(**self.model_dump(exclude={"version", "type"}))


Result = Annotated[TextResult | ImageResult, Field(discriminator="type")]
_RESULT: TypeAdapter[TextResult | ImageResult] = TypeAdapter(Result)


def decode_result(document: str | bytes) -> TextResult | ImageResult:
    """Read a finished part.

    Raises:
        DecodeError: it is not a part of this version.
    """
    try:
        return _RESULT.validate_json(document)
    except ValidationError as error:
        raise DecodeError("not a result") from error


class Usage(Message):
    """What a request has cost so far."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    image_steps: int = 0

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """The sum."""
        total: Counter[str] = Counter()
        for usage in usages:
            total.update(usage.model_dump())
        return cls(**total)


class Failure(Message):
    """Why a request failed, as its client sees it in the event."""

    type: str
    code: str
    message: str
    retryable: bool = False


class StoredFailure(Failure):
    """A failure as the record keeps it, with the HTTP status of its answer."""

    version: Literal[1] = 1
    status: int = 500

    @property
    def failure(self) -> Failure:
        """The failure without the fields of the record."""
        return Failure(**self.model_dump(exclude={"version", "status"}))


class RequestStatus(BaseModel):
    """The present state of a request, for `GET /v1/requests/{id}`."""

    model_config = ConfigDict(frozen=True)

    request: Request
    state: State
    turn: int
    created_ms: int
    deadline_at_ms: int
    finished_ms: int | None = None
    results: tuple[TextResult | ImageResult, ...] = ()
    usage: Usage = Usage()
    reason: Reason | None = None
    error: StoredFailure | None = None
    choices: tuple[RequestStatus, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the request has ended."""
        return self.state in TERMINAL_STATES

    def with_choices(self, choices: tuple[RequestStatus, ...]) -> RequestStatus:
        """The status of a request for several answers, completed by the status of each."""
        state = self.state
        if not self.terminal and any(choice.state != "queued" for choice in choices):
            state = "running"
        usage = Usage.total(choice.usage for choice in choices)
        return self.model_copy(update={"choices": choices, "state": state, "usage": usage})

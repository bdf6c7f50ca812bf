"""The events of a request's stream."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.sampling_params import TokenScore
from service.messages.answer import Failure, StoredImage, Usage
from service.messages.message import Message, Modality, Reason, Sha256


class Event(Message):
    """One entry of a request's event stream; the script that appends it numbers it."""

    type: str


class ResponseCreated(Event):
    """The request is accepted."""

    type: Literal["response.created"] = "response.created"


class ResponseQueued(Event):
    """`position` requests are ahead of this one."""

    type: Literal["response.queued"] = "response.queued"
    position: int


class PartStartEvent(Event):
    """The answer's part `index` begins."""

    type: Literal["part.start"] = "part.start"
    index: int
    kind: Modality


class TextDeltaEvent(Event):
    """More text of part `index`."""

    type: Literal["text.delta"] = "text.delta"
    index: int
    text: str
    logprobs: tuple[TokenScore, ...] | None = Field(default=None, exclude_if=lambda v: v is None)


class ImageProgressEvent(Event):
    """Denoising step `step` of `total` of part `index` is done."""

    type: Literal["image.progress"] = "image.progress"
    index: int
    step: int
    total: int


class ImagePreviewEvent(Event):
    """The `n`-th partial image of part `index`; the gateway adds the bytes."""

    type: Literal["image.preview"] = "image.preview"
    index: int
    n: int
    mime: str
    sha256: Sha256


class ImageDoneEvent(Event, StoredImage):
    """The image of part `index`; the gateway adds bytes or an address."""

    type: Literal["image.done"] = "image.done"
    index: int


class PartDoneEvent(Event):
    """Part `index` is complete."""

    type: Literal["part.done"] = "part.done"
    index: int


class UsageEvent(Event, Usage):
    """The usage of the whole request; comes right before the terminal event."""

    type: Literal["usage"] = "usage"


class ErrorEvent(Event):
    """Why `response.failed` follows."""

    type: Literal["error"] = "error"
    error: Failure


class ResponseCompleted(Event):
    """Terminal: the model ended its answer."""

    type: Literal["response.completed"] = "response.completed"


class ResponseIncomplete(Event):
    """Terminal: a limit ended the answer."""

    type: Literal["response.incomplete"] = "response.incomplete"
    reason: Reason


class ResponseFailed(Event):
    """Terminal: the answer could not be finished."""

    type: Literal["response.failed"] = "response.failed"
    error: Failure


class ResponseCancelled(Event):
    """Terminal: the client cancelled the request."""

    type: Literal["response.cancelled"] = "response.cancelled"


TERMINAL_EVENTS: frozenset[str] = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)


class StoredEvent(BaseModel):
    """An event as read back; `id` is the entry id (and SSE id), `raw` the event's JSON."""

    model_config = ConfigDict(frozen=True)

    id: str
    sequence_number: int
    request_id: str
    type: str
    raw: str = "{}"
    token_ids: tuple[int, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether this is the request's last event."""
        return self.type in TERMINAL_EVENTS

    @property
    def data(self) -> dict[str, Any]:
        """The event's own fields."""
        return dict(json.loads(self.raw))

    def encode(self) -> str:
        """The JSON for clients: type, sequence_number, request_id, then the event's own fields."""
        head = (
            f'{{"type":"{self.type}","sequence_number":{self.sequence_number},'
            f'"request_id":"{self.request_id}"'
        )
        return f"{head}}}" if self.raw == "{}" else f"{head},{self.raw[1:]}"

    def document(self) -> dict[str, Any]:
        """The values that `encode` writes as JSON."""
        return dict(json.loads(self.encode()))

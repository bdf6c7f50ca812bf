"""What travels through Redis: the request, the tasks of its turns, and its events.

All are frozen and versioned JSON; bytes (images, tensors) travel as blobs, named by their SHA-256.
A reader refuses a version that it does not know, and unknown fields with it.
"""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import DecodeError

VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Priority = Literal["interactive", "batch"]
Modality = Literal["text", "image"]
Stage = Literal["text", "image"]
State = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
Reason = Literal["max_tokens", "max_images", "context_length", "deadline"]
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "incomplete", "failed", "cancelled"})


class Message(BaseModel):
    """A frozen value with a JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> str:
        """This message as JSON."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def decode(cls, document: str | bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            DecodeError: it is not a message of this kind and version.
        """
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise DecodeError(f"not a {cls.__name__}") from error


# --- the request ---------------------------------------------------------------------------


class TextPart(Message):
    """Text, as the client wrote it."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Message):
    """An image in the blob store, already checked and normalised."""

    type: Literal["image"] = "image"
    sha256: Sha256


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Sampling(Message):
    """How text is sampled; vLLM's names."""

    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logit_bias: dict[int, float] = Field(default_factory=dict)


class ImageParameters(Message):
    """How images are drawn. Sizes of None take the checkpoint's."""

    width: int | None = None
    height: int | None = None
    steps: int = Field(default=30, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    scheduler: Literal["ddpm", "ddim", "dpmsolver++", "unipc"] = "ddpm"
    seed: int = Field(default=0, ge=0)
    format: Literal["png", "jpeg", "webp"] = "png"
    returns: Literal["b64", "url"] = "b64"
    previews: int = Field(default=0, ge=0, le=3)


class Limits(Message):
    """Bounds of the whole answer, over all of its turns."""

    max_tokens: int = Field(default=256, ge=1)
    max_images: int = Field(default=4, ge=0)


def new_request_id() -> str:
    """A request id that nobody can guess."""
    return f"req_{uuid.uuid4().hex}"


class Request(Message):
    """An accepted request; written once, never changed.

    `deadline_ms` counts from acceptance, by the clock of Redis: clocks of hosts do not matter.
    """

    version: Literal[1] = 1
    request_id: str = Field(default_factory=new_request_id, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    owner: str = "anonymous"
    content: tuple[ContentPart, ...] = Field(min_length=1)
    output_modalities: tuple[Modality, ...] = ("text", "image")
    sampling: Sampling = Sampling()
    image: ImageParameters = ImageParameters()
    limits: Limits = Limits()
    priority: Priority = "interactive"
    deadline_ms: int = Field(default=600_000, ge=1)
    stream: bool = True
    cancel_on_disconnect: bool = True
    model: str | None = None
    traceparent: str | None = None

    @property
    def text_work(self) -> int:
        """Tokens that this request may cost the text stage: the queue's unit there."""
        characters = sum(len(part.text) for part in self.content if part.type == "text")
        return self.limits.max_tokens + characters // 64 + 1

    @property
    def image_work(self) -> int:
        """Denoising steps that this request may cost the image stage."""
        if "image" not in self.output_modalities:
            return 0
        return self.limits.max_images * self.image.steps


# --- tasks and what turns leave behind -----------------------------------------------------


class TextTask(Message):
    """Turn `turn` of the request: continue the answer with text."""

    version: Literal[1] = 1
    type: Literal["text"] = "text"
    request_id: str
    turn: int = Field(ge=0)
    traceparent: str | None = None


class ImageTask(Message):
    """Turn `turn` of the request: draw the answer's part `index`."""

    version: Literal[1] = 1
    type: Literal["image"] = "image"
    request_id: str
    turn: int = Field(ge=0)
    index: int = Field(ge=0)
    image_tokens: Sha256
    previous_image: Sha256 | None = None
    seed: int
    traceparent: str | None = None


Task = Annotated[TextTask | ImageTask, Field(discriminator="type")]
_TASK: TypeAdapter[TextTask | ImageTask] = TypeAdapter(Task)


def decode_task(document: str | bytes) -> TextTask | ImageTask:
    """Read a task.

    Raises:
        DecodeError: it is no task of this version.
    """
    try:
        return _TASK.validate_json(document)
    except ValidationError as error:
        raise DecodeError("not a task") from error


class TextResult(Message):
    """A finished text part, with the exact ids that were sampled."""

    type: Literal["text"] = "text"
    text: str
    token_ids: tuple[int, ...]


class ImageResult(Message):
    """A finished image part."""

    type: Literal["image"] = "image"
    sha256: Sha256
    mime: str
    width: int
    height: int
    seed: int


Result = Annotated[TextResult | ImageResult, Field(discriminator="type")]
_RESULT: TypeAdapter[TextResult | ImageResult] = TypeAdapter(Result)


def decode_result(document: str | bytes) -> TextResult | ImageResult:
    """Read a finished part.

    Raises:
        DecodeError: it is no part of this version.
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


class ErrorBody(Message):
    """An error as clients see it."""

    type: str
    code: str
    message: str
    retryable: bool = False


# --- events --------------------------------------------------------------------------------


class Event(Message):
    """One entry of a request's event stream.

    The stream's script numbers events; `StoredEvent` pairs one with its number and entry id.
    """

    type: str


class ResponseCreated(Event):
    """The request is accepted."""

    type: Literal["response.created"] = "response.created"


class ResponseQueued(Event):
    """`position` requests are before this one."""

    type: Literal["response.queued"] = "response.queued"
    position: int


class PartStart(Event):
    """The answer's part `index` begins."""

    type: Literal["part.start"] = "part.start"
    index: int
    kind: Modality


class TextDelta(Event):
    """More text of part `index`."""

    type: Literal["text.delta"] = "text.delta"
    index: int
    text: str


class ImageProgress(Event):
    """Denoising step `step` of `total` of part `index` is done."""

    type: Literal["image.progress"] = "image.progress"
    index: int
    step: int
    total: int


class ImagePreview(Event):
    """The `n`-th partial picture of part `index`; the gateway adds its bytes."""

    type: Literal["image.preview"] = "image.preview"
    index: int
    n: int
    mime: str
    sha256: Sha256


class ImageDone(Event):
    """The picture of part `index`; the gateway adds bytes or an address."""

    type: Literal["image.done"] = "image.done"
    index: int
    mime: str
    sha256: Sha256
    width: int
    height: int
    seed: int


class PartDone(Event):
    """Part `index` is complete."""

    type: Literal["part.done"] = "part.done"
    index: int


class UsageReport(Event):
    """The bill; comes right before the terminal event."""

    type: Literal["usage"] = "usage"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    image_steps: int = 0


class ErrorEvent(Event):
    """Why `response.failed` follows."""

    type: Literal["error"] = "error"
    error: ErrorBody


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
    error: ErrorBody


class ResponseCancelled(Event):
    """Terminal: the client took the request back."""

    type: Literal["response.cancelled"] = "response.cancelled"


TERMINAL_EVENTS: frozenset[str] = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)


class StoredEvent(BaseModel):
    """An event as read back; `id` is the entry id (the SSE id), `raw` its own fields as JSON."""

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
        """The JSON that clients get: type, sequence_number, request_id, then the event's fields."""
        head = (
            f'{{"type":"{self.type}","sequence_number":{self.sequence_number},'
            f'"request_id":"{self.request_id}"'
        )
        return f"{head}}}" if self.raw == "{}" else f"{head},{self.raw[1:]}"

    def document(self) -> dict[str, Any]:
        """What `encode` writes, as values."""
        return dict(json.loads(self.encode()))


class RequestStatus(BaseModel):
    """What is known of a request now: for `GET /v1/requests/{id}`."""

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
    error: ErrorBody | None = None

    @property
    def terminal(self) -> bool:
        """Whether the request has ended."""
        return self.state in TERMINAL_STATES

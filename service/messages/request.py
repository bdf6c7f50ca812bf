"""An accepted request: its content, its parameters and its limits."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from model.sampling_params import ImageParams, SamplingParams
from model.segments import Role
from service.messages.message import Message, Modality, Sha256

Priority = Literal["interactive", "batch"]


class TextPart(Message):
    """Text as the client wrote it."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Message):
    """An image in the blob store, checked and normalised."""

    type: Literal["image"] = "image"
    sha256: Sha256


class RolePart(Message):
    """The beginning of a message; content before the first one is the user's."""

    type: Literal["role"] = "role"
    role: Role


ContentPart = Annotated[TextPart | ImagePart | RolePart, Field(discriminator="type")]


@dataclass(frozen=True)
class RequestImageParams(ImageParams):
    """How the images of an answer are generated and delivered."""

    # The stored names are those of the HTTP API.
    num_inference_steps: Annotated[int, Field(alias="steps")] = 30
    num_previews: Annotated[int, Field(alias="previews")] = 0
    format: Literal["png", "jpeg", "webp"] = "png"
    returns: Literal["b64", "url"] = "b64"


class AnswerLimits(Message):
    """Bounds of the whole answer, over all of its turns."""

    max_tokens: int = Field(default=256, ge=1)
    max_images: int = Field(default=5, ge=0)


# Seeds of neighbouring turns and images differ by one; those of choices must not meet them.
_CHOICE_STRIDE = 1_000_003


def new_request_id() -> str:
    """A new request id, which nobody can guess."""
    return f"req_{uuid.uuid4().hex}"


def choice_of(request_id: str) -> int | None:
    """The number of the choice that an id names; None for the id of a whole request."""
    number = request_id.partition(".")[2]
    return int(number) if number else None


class Request(Message):
    """An accepted request; written once, never changed.

    `deadline_ms` counts from acceptance by the clock of Redis, so clocks of hosts do not matter.
    A request for `n` answers runs as `n` requests for one answer, its choices.
    """

    version: Literal[1] = 1
    request_id: str = Field(
        default_factory=new_request_id, pattern=r"^[A-Za-z0-9_-]{1,60}(\.[0-9]{1,3})?$"
    )
    owner: str = "anonymous"
    content: tuple[ContentPart, ...] = Field(min_length=1)
    output_modalities: tuple[Modality, ...] = ("text", "image")
    sampling: SamplingParams = SamplingParams()
    image: RequestImageParams = RequestImageParams()
    draw_now: bool = False
    limits: AnswerLimits = AnswerLimits()
    n: int = Field(default=1, ge=1, le=1000)
    priority: Priority = "interactive"
    deadline_ms: int = Field(default=600_000, ge=1)
    stream: bool = True
    cancel_on_disconnect: bool = True
    model: str | None = None
    traceparent: str | None = None

    @property
    def choices(self) -> tuple[Request, ...]:
        """One request for each answer, with seeds of its own; empty if `n` is 1.

        The first choice has the request's own seeds, so its answer is the one of `n` = 1.
        """
        return tuple(self._choice(number) for number in range(self.n)) if self.n > 1 else ()

    def _choice(self, number: int) -> Request:
        offset, seed = number * _CHOICE_STRIDE, self.sampling.seed
        if seed is not None:
            seed = (seed + offset) % 2**63
        image_seed = (self.image.seed + offset) % 2**32
        return self.model_copy(
            update={
                "request_id": f"{self.request_id}.{number}",
                "n": 1,
                "sampling": replace(self.sampling, seed=seed),
                "image": replace(self.image, seed=image_seed),
            }
        )

    @property
    def text_work(self) -> int:
        """The text stage's work for one answer, in tokens."""
        characters = sum(len(part.text) for part in self.content if part.type == "text")
        return self.limits.max_tokens + characters // 64 + 1

    @property
    def image_work(self) -> int:
        """The image stage's work for one answer, in denoising steps."""
        if "image" not in self.output_modalities:
            return 0
        return self.limits.max_images * self.image.num_inference_steps

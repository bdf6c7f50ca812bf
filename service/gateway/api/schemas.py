"""The types of the HTTP API. Unknown fields are refused, and every number has its bounds here."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from model.sampling_params import (
    MAX_STEPS,
    QUALITIES,
    QualityName,
    SamplingParams,
    SchedulerName,
    TokenScore,
)
from service.messages import (
    AnswerLimits,
    RequestImageParams,
    RolePart,
    StoredImage,
    TextPart,
    Usage,
)

_LIMITS = AnswerLimits()

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UploadName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MAX_PARTS, MAX_STOPS = 1024, 4
Side = Annotated[int, Field(ge=8, le=2048, multiple_of=8)]


class Schema(BaseModel):
    """The base of what clients send: strict, frozen, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TextInput(TextPart):
    """A piece of text."""

    model_config = Schema.model_config

    type: Literal["text"]
    text: str = Field(min_length=1, max_length=100_000, examples=["A cat on a chair."])


class ImageInput(Schema):
    """An image, given in exactly one way."""

    type: Literal["image"]
    b64: str | None = Field(default=None, min_length=1, description="Base64, or a data: URL.")
    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=2_100_000,
        description="data: always; https: if enabled.",
    )
    upload: UploadName | None = Field(default=None, description="Name of a file field of the form.")
    sha256: Digest | None = Field(
        default=None, description="An image of yours that is stored already."
    )

    @model_validator(mode="after")
    def _one_source(self) -> ImageInput:
        given = [v for v in (self.b64, self.url, self.upload, self.sha256) if v is not None]
        if len(given) != 1:
            raise ValueError("one_source")
        return self


class RoleInput(RolePart):
    """The beginning of a message; content before the first one is the user's."""

    model_config = Schema.model_config

    type: Literal["role"]


ContentInput = Annotated[TextInput | ImageInput | RoleInput, Field(discriminator="type")]


class ImageOptions(Schema):
    """Parameters of the images of an answer. A missing size is the model's own."""

    width: Side | None = None
    height: Side | None = None
    quality: QualityName = Field("balanced", description="Sets `steps` and `scheduler` if missing")
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(
        default=None, ge=0.0, le=50.0, description="Default: the model's"
    )
    guidance_rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    scheduler: SchedulerName | None = None
    seed: Seed | None = None
    format: Literal["png", "jpeg", "webp"] = "png"
    return_: Literal["b64", "url"] = Field("b64", alias="return")
    previews: int = Field(default=0, ge=0, le=3)

    def params(self, seed: int) -> RequestImageParams:
        """The parameters; steps and scheduler are the quality's unless they are given."""
        quality = QUALITIES[self.quality]
        return RequestImageParams(
            width=self.width,
            height=self.height,
            num_inference_steps=self.steps or quality.steps,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
            scheduler=self.scheduler or quality.scheduler,
            seed=seed,
            num_previews=self.previews,
            format=self.format,
            returns=self.return_,
        )


class SamplingOptions(Schema):
    """Sampling parameters of text, with vLLM's names."""

    max_tokens: int = Field(
        default=_LIMITS.max_tokens, ge=1, le=8192, description="Of the whole answer."
    )
    min_tokens: int = Field(default=0, ge=0, le=8192)
    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, le=1_000_000, description="0 considers all tokens.")
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=2.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    stop: list[StopText] = Field(default_factory=list, max_length=MAX_STOPS)
    logit_bias: dict[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}$")],
        Annotated[float, Field(ge=-100.0, le=100.0)],
    ] = Field(default_factory=dict, max_length=300)
    seed: Seed | None = None
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=5,
        description="Report log-probabilities, with this many alternatives at each token.",
    )

    def sampling_params(self) -> SamplingParams:
        names = {field.name for field in fields(SamplingParams)} - {"stop", "logit_bias"}
        return SamplingParams(
            **{name: getattr(self, name) for name in names},
            stop=tuple(self.stop),
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
        )


class GenerateRequest(SamplingOptions):
    """A request for an interleaved answer: `content` is continued with text and images."""

    model: str | None = Field(default=None, max_length=128)
    content: list[ContentInput] = Field(min_length=1, max_length=MAX_PARTS)
    output_modalities: list[Literal["text", "image"]] = Field(
        default=["text", "image"], min_length=1, max_length=2
    )
    max_images: int = Field(default=_LIMITS.max_images, ge=0, le=16)
    draw_now: bool = Field(default=False, description="Begin the answer with an image.")
    n: int = Field(
        default=1, ge=1, le=16, description="Independent answers; the server may allow fewer."
    )
    image: ImageOptions = Field(default_factory=lambda: ImageOptions.model_validate({}))
    stream: bool = Field(default=False, description="Answer with server-sent events.")
    background: bool = Field(
        default=False, description="Answer 202 at once; fetch the result later."
    )
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        default=None,
        description="When the client leaves a stream or a waiting call; default: the server's.",
    )
    deadline_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    priority: Literal["interactive", "batch"] = "interactive"

    @model_validator(mode="after")
    def _consistent(self) -> GenerateRequest:
        if all(isinstance(part, RoleInput) for part in self.content):
            raise ValueError("no_content")
        if self.stream and self.background:
            raise ValueError("stream_background")
        if "text" not in self.output_modalities and self.max_images == 0:
            raise ValueError("no_output")
        if self.draw_now and ("image" not in self.output_modalities or self.max_images == 0):
            raise ValueError("draw_now")
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens")
        return self


class ErrorBody(BaseModel):
    """What went wrong, for programs and for people."""

    type: str
    code: str
    message: str
    param: str | None = None
    request_id: str | None = None
    retryable: bool = False


class ErrorDocument(BaseModel):
    """The body of every answer with a 4xx or 5xx status."""

    error: ErrorBody


class OutputText(BaseModel):
    """A text part of an answer; with `logprobs`, if the request asked for them."""

    type: Literal["text"] = "text"
    text: str
    logprobs: tuple[TokenScore, ...] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )


class OutputImage(StoredImage):
    """An image of an answer, in `b64` or at `url`."""

    type: Literal["image"] = "image"
    b64: str | None = None
    url: str | None = None


class Outcome(BaseModel):
    """The finished parts of an answer, in order."""

    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    reason: str | None = None
    content: list[OutputText | OutputImage]
    usage: Usage | None = None
    error: dict[str, Any] | None = None


class Choice(Outcome):
    """One of several answers to a request."""

    choice: int


class GenerateResponse(Outcome):
    """The answer to a request; several answers are in `choices`, and `content` is empty then."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    model: str
    choices: list[Choice] | None = Field(default=None, exclude_if=lambda v: v is None)

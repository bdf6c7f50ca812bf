"""The requests of the OpenAI-compatible endpoints, with the fields that have a meaning here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from service.gateway.api.schemas import Schema, Seed, StopText

Text = Annotated[str, StringConstraints(max_length=100_000)]


class ImageUrl(Schema):
    """The address of an image: data:, or https: if the server fetches URLs."""

    url: str = Field(min_length=1, max_length=60_000_000)
    detail: Literal["auto", "low", "high"] = "auto"


class ChatText(Schema):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ChatImage(Schema):
    """Image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


ChatPart = Annotated[ChatText | ChatImage, Field(discriminator="type")]


class ChatMessage(Schema):
    """One message. A developer's is a system message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ChatPart]
    name: str | None = Field(default=None, max_length=64)


class StreamOptions(Schema):
    """What a stream contains besides the answer."""

    include_usage: bool = False


class ChatRequest(Schema):
    """`POST /v1/chat/completions`."""

    model: str | None = Field(default=None, max_length=128)
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    modalities: list[Literal["text", "image"]] = Field(default=["text"], min_length=1, max_length=2)
    max_tokens: int | None = Field(default=None, ge=1, le=8192)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=8192)
    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    stop: StopText | list[StopText] | None = None
    seed: Seed | None = None
    n: int = Field(default=1, ge=1, le=16)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=5)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=256)
    metadata: dict[str, Any] | None = Field(default=None, max_length=16)
    store: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs")
        return self


class ImagesRequest(Schema):
    """`POST /v1/images/generations`."""

    model: str | None = Field(default=None, max_length=128)
    prompt: str = Field(min_length=1, max_length=32_000)
    n: int = Field(default=1, ge=1, le=4)
    size: str | None = Field(default=None, pattern=r"^(auto|[0-9]{1,4}x[0-9]{1,4})$")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = "auto"
    seed: Seed | None = None
    user: str | None = Field(default=None, max_length=256)

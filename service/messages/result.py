"""What finished turns leave behind: parts of the answer, the bill, or an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import DecodeError
from service.messages.message import Message, Sha256


class TokenScore(Message):
    """A token's log-probability, and those of the most probable tokens at its position."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class TextResult(Message):
    """A finished text part, with the exact ids that were sampled."""

    type: Literal["text"] = "text"
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenScore, ...] | None = None


class Picture(Message):
    """A drawn image: its bytes are in the blob store."""

    sha256: Sha256
    mime: str
    width: int
    height: int
    seed: int


class ImageResult(Picture):
    """A finished image part."""

    type: Literal["image"] = "image"


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

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """All of them together."""
        total: Counter[str] = Counter()
        for usage in usages:
            total.update(usage.model_dump())
        return cls(**total)


class ErrorBody(Message):
    """An error as clients see it."""

    type: str
    code: str
    message: str
    retryable: bool = False

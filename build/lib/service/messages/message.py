"""The base of all messages: frozen JSON, and the vocabulary that several of them share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import DecodeError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Modality = Literal["text", "image"]
Stage = Literal["text", "image"]
Reason = Literal["max_tokens", "max_images", "context_length", "deadline", "choice_failed"]


class Message(BaseModel):
    """A frozen value with a JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> str:
        return self.model_dump_json(exclude_none=True, by_alias=True)

    @classmethod
    def decode(cls, document: str | bytes) -> Self:
        """Read JSON that `encode` wrote.

        Raises:
            DecodeError: it is not a message of this kind and version.
        """
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise DecodeError(f"not a {cls.__name__}") from error

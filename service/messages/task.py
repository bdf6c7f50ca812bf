"""The tasks of a request's turns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import DecodeError
from service.messages.message import Message, Sha256


class TextTask(Message):
    """Continue the answer with text, as turn `turn` of the request."""

    version: Literal[1] = 1
    type: Literal["text"] = "text"
    request_id: str
    turn: int = Field(ge=0)
    traceparent: str | None = None


class ImageTask(Message):
    """Generate the image that is the answer's part `index`, as turn `turn` of the request.

    The synchronizer reads the maps of `previous_image`, an earlier image of the context.
    """

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
        DecodeError: it is not a task of this version.
    """
    try:
        return _TASK.validate_json(document)
    except ValidationError as error:
        raise DecodeError("not a task") from error

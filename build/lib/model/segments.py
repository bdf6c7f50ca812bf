"""Segments: what an interleaved context consists of, in order.

A context is a conversation: its messages, then the answer so far. Segments before the first
`RoleSegment` belong to the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class RoleSegment:
    """The beginning of a message. The last one, if it is the assistant's, begins the answer."""

    role: Role


@dataclass(frozen=True)
class TextSegment:
    """Text in the context, not yet tokenised. Special tokens spelled in it are neutralised."""

    text: str


@dataclass(frozen=True)
class TokenSegment:
    """Text that the model generated, as the exact ids it sampled."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ImageSegment:
    """An image in the context. `digest` is the hash of its bytes, a key for feature caches."""

    image: Image.Image
    digest: str


Segment = RoleSegment | TextSegment | TokenSegment | ImageSegment


@dataclass
class ConversationMessage:
    """What one side says before the other; without `RoleSegment`s."""

    role: Role
    segments: list[Segment]


def messages_of(context: Sequence[Segment]) -> list[ConversationMessage]:
    """The messages of a context, at least one, then the answer so far, which may be empty."""
    messages: list[ConversationMessage] = []
    for segment in context:
        if isinstance(segment, RoleSegment):
            messages.append(ConversationMessage(segment.role, []))
        elif messages:
            messages[-1].segments.append(segment)
        else:
            messages.append(ConversationMessage("user", [segment]))
    if not messages or messages[-1].role != "assistant":
        messages.append(ConversationMessage("assistant", []))
    return messages if len(messages) > 1 else [ConversationMessage("user", []), *messages]

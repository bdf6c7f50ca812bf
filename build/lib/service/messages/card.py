"""Limits of the model, from which the gateway refuses content that surely does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from service.messages.message import Message

# U+FFFD stands for a character that is split over several tokens, which may be a letter.
_WORD = re.compile(r"(?:[^\W\d_]|\ufffd)+")


class ModelCard(Message):
    """Written by text workers when they start.

    No token of the vocabulary holds more than `words_per_token` words or `characters_per_token`
    characters, which bounds the number of tokens of a text from below.
    """

    version: Literal[1] = 1
    max_prompt_tokens: int = Field(ge=1)
    max_images: int = Field(ge=0)
    tokens_per_image: int = Field(ge=1)
    words_per_token: int = Field(ge=0, description="0: the vocabulary is unknown")
    characters_per_token: int = Field(ge=0)

    def least_tokens(self, texts: Iterable[str], num_images: int) -> int:
        """A lower bound of the prompt's length, never above the true one."""
        words = characters = 0
        for text in texts:
            words += count_words(text)
            characters += len(text.strip())
        tokens = 1 + num_images * self.tokens_per_image
        if self.words_per_token and self.characters_per_token:
            by_words = -(-words // self.words_per_token)
            tokens += max(by_words, -(-characters // self.characters_per_token))
        return tokens


def count_words(text: str) -> int:
    """The number of runs of letters."""
    return len(_WORD.findall(text))

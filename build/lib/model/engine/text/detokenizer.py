"""Ids in, text out, with stop strings: a pure function of the ids so far.

Another process can resume a turn: it feeds the ids that were already streamed, and has the same
state, text held back for stop strings and incomplete characters included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_PROMPT_TAIL = 8


class Detokenizer:
    """Decodes one turn."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
        min_tokens: int = 0,
    ) -> None:
        """Continue `prompt_ids`. Stop strings count only after `min_tokens` ids."""
        self._tokenizer = tokenizer
        self._stream = DecodeStream(ids=list(prompt_ids[-_PROMPT_TAIL:]), skip_special_tokens=True)
        self._stop = tuple(stop)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""
        self.stopped = False

    def feed(self, token_ids: Iterable[int]) -> tuple[str, int]:
        """The text that these ids make certain, and how many of them were used.

        All ids are used unless a stop string appears; the text ends right before it.
        """
        text = ""
        used = 0
        for token_id in token_ids:
            if self.stopped:
                break
            used += 1
            self._num_tokens += 1
            text += self._release(self._stream.step(self._tokenizer, token_id) or "")
        return text, used

    def flush(self) -> str:
        """The text that was held back, at the end of a turn without a stop string."""
        text, self._held = self._held, ""
        return "" if self.stopped else text

    def _release(self, piece: str) -> str:
        """Release the text in which no stop string can begin any more."""
        self._held += piece
        if self._num_tokens > self._min_tokens:
            ends = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
            if ends:
                self.stopped = True
                return self._held[: min(ends)]
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)

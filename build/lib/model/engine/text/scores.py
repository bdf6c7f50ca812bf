"""Converts log-probabilities from vLLM's form to the engine's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from model.sampling_params import TokenScore

# The score of an impossible token: JSON has no infinities.
_LOWEST = -9999.0
# Normalizers that keep each character or add one.
_HARMLESS = frozenset({"Prepend", "Replace"})


class _Logprob(Protocol):
    logprob: float
    rank: int | None


class TokenScores:
    """Reads vLLM's log-probabilities; spells single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders treat the first token in a special way, so the one of interest comes second.
        self._lead = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._lead_length = len(self._decode(self._lead))
        self._spelled: dict[int, str] = {}

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def spell(self, token_id: int) -> str:
        """The text of one token: with its space, and U+FFFD for a part of a character."""
        if token_id not in self._spelled:
            self._spelled[token_id] = self._decode_behind_lead(token_id)
        return self._spelled[token_id]

    def _decode_behind_lead(self, token_id: int) -> str:
        return self._decode([*self._lead, token_id])[self._lead_length :]

    def vocabulary(self) -> tuple[str, ...]:
        """All ordinary tokens as they are spelled; none if a normalizer changes texts first."""
        normalizer = json.loads(self._tokenizer.to_str())["normalizer"]
        steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
        if any(step["type"] not in _HARMLESS for step in steps):
            return ()
        added = self._tokenizer.get_added_tokens_decoder()
        count = self._tokenizer.get_vocab_size()
        return tuple(self._decode_behind_lead(i) for i in range(count) if i not in added)

    def read(
        self,
        token_ids: Sequence[int],
        reported: Sequence[Mapping[int, _Logprob] | None],
        num_top: int,
    ) -> tuple[TokenScore, ...]:
        """The scores of sampled tokens.

        Args:
            token_ids: what was sampled.
            reported: per token, vLLM's report: the sampled one and the most probable ones.
            num_top: how many of the most probable ones are wanted.
        """
        scores = []
        for token_id, report in zip(token_ids, reported, strict=True):
            known = report or {}
            ranked = sorted(known.items(), key=lambda item: -item[1].logprob)
            top = [(self.spell(i), _finite(one.logprob)) for i, one in ranked[:num_top]]
            sampled = _finite(known[token_id].logprob) if token_id in known else _LOWEST
            scores.append(TokenScore(self.spell(token_id), sampled, tuple(top)))
        return tuple(scores)


def _finite(logprob: float) -> float:
    return max(_LOWEST, round(logprob, 5))

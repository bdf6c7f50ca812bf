"""Words as vectors of the language model, and how much of them is in a state.

Legend: W words, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import SpecialTokens
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.world.drawn.language import ORDINALS


def word_vectors(words: Sequence[str], processor: Processor, embeddings_VD: Tensor) -> Tensor:
    """The embeddings of words, [W, D]; one of several tokens counts as their mean."""
    return torch.stack([embeddings_VD[processor.encode_text(f" {word}")].mean(0) for word in words])


def readers(vectors_WD: Tensor) -> Tensor:
    """Vectors [W, D] whose product with one of the given, once, is 1."""
    return vectors_WD / vectors_WD.square().sum(1, keepdim=True)


_LAYER = 1  # One to count what came before, one to pass it on.
_SCALE = 8.0  # The logit of a word that is there once.


class Ordinals:
    """Reads which image visual tokens belong to from their hidden states."""

    def __init__(self, model: MMInterleaved, processor: Processor) -> None:
        self.model, self.processor = model, processor

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """The hidden states [B, L, D] of what the language model reads meanwhile, by reading."""
        read: list[Tensor] = []
        layer = self.model.mm_decoder.layers[_LAYER]
        handle = layer.register_forward_hook(lambda _, inputs, hidden: read.append(hidden))
        try:
            yield read
        finally:
            handle.remove()

    def loss(self, hidden_BLD: Tensor, text_ids_BL: Tensor) -> Tensor:
        """Mean cross-entropy of the ordinal of every visual token, a scalar."""
        special = self.processor.special
        number_BL = image_numbers(text_ids_BL, special)
        asked_BL = (text_ids_BL == special.image_token_id) & (number_BL < len(ORDINALS))
        if not bool(asked_BL.any()):
            return hidden_BLD.sum() * 0
        embeddings_VD = self.model.mm_decoder.embed_tokens.weight.detach().float()
        words_WD = _SCALE * readers(word_vectors(ORDINALS, self.processor, embeddings_VD))
        return F.cross_entropy(hidden_BLD[asked_BL].float() @ words_WD.T, number_BL[asked_BL])


def image_numbers(text_ids_BL: Tensor, special: SpecialTokens) -> Tensor:
    """How many images began before each token's own or last one, [B, L]."""
    begun_BL = (text_ids_BL == special.soi_token_id).long().cumsum(1)
    return (begun_BL - 1).clamp(min=0)

"""Words in hidden states: word vectors, and the number of a visual token's image.

"The second image" is found in two steps: a visual token counts the images before it, and the word
finds the token by that count. Next-token prediction does not teach the first step before the second
works. So after an early layer every visual token is trained to hold the word of its ordinal.

Legend: B batch, L tokens, W words, V vocabulary, D width.
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
from model.training.world.words import ORDINALS


def word_vectors(words: Sequence[str], processor: Processor, embeddings_VD: Tensor) -> Tensor:
    """The embeddings of words, [W, D]; the mean for a word of several tokens."""
    return torch.stack([embeddings_VD[processor.encode_text(f" {word}")].mean(0) for word in words])


_APART = 1.5  # Characters differ by about half as much as words do.


def apart(characters: str, processor: Processor, embeddings_VD: Tensor) -> Tensor:
    """What tells the embeddings of some characters apart, [W, D]."""
    rows = [embeddings_VD[processor.encode_text(character)].mean(0) for character in characters]
    vectors_WD = torch.stack(rows)
    return _APART * (vectors_WD - vectors_WD.mean(0))


def readers(vectors_WD: Tensor) -> Tensor:
    """Vectors [W, D] whose dot product with the given vector of the same row is 1."""
    return vectors_WD / vectors_WD.square().sum(1, keepdim=True)


_LAYER = 1  # One to count what came before, one to pass it on.
_SCALE = 8.0  # The logit of a word that is there once.


class Ordinals:
    """Reads the number of their image from the hidden states of visual tokens."""

    def __init__(self, model: MMInterleaved, processor: Processor) -> None:
        self.model, self.processor = model, processor

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Collect the hidden states [B, L, D] of every forward pass inside the context."""
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
    """The index of the last image that begins at or before each token, [B, L]."""
    begun_BL = (text_ids_BL == special.soi_token_id).long().cumsum(1)
    return (begun_BL - 1).clamp(min=0)

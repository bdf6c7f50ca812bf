"""Words as vectors of the language model, and how much of them is in a state.

Legend: W words, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.processor import Processor


def word_vectors(words: Sequence[str], processor: Processor, embeddings_VD: Tensor) -> Tensor:
    """The embeddings of words, [W, D]; one of several tokens counts as their mean."""
    return torch.stack([embeddings_VD[processor.encode_text(f" {word}")].mean(0) for word in words])


def readers(vectors_WD: Tensor) -> Tensor:
    """Vectors [W, D] whose product with one of the given, once, is 1."""
    return vectors_WD / vectors_WD.square().sum(1, keepdim=True)

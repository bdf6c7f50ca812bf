"""Maps of conditioning images by the hash of their bytes, the least recently used dropped first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from cachetools import LRUCache
from torch import Tensor


class ImageFeatureCache:
    """Holds tensors up to a number of bytes; a single larger one is computed each time."""

    def __init__(self, max_bytes: int) -> None:
        self.num_hits = 0
        self.num_misses = 0
        self._features = LRUCache[str, Tensor](
            max_bytes, getsizeof=lambda features: features.nbytes
        )

    @property
    def num_bytes(self) -> int:
        return int(self._features.currsize)

    def get(self, digest: str, compute: Callable[[], Tensor]) -> Tensor:
        """The features of an image, computed at the first call."""
        if (features := self._features.get(digest)) is not None:
            self.num_hits += 1
            return features
        self.num_misses += 1
        features = compute()
        with suppress(ValueError):  # Larger than the whole cache.
            self._features[digest] = features
        return features

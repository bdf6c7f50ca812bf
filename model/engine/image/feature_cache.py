"""Maps of conditioning images by the hash of their bytes, least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class FeatureCache:
    """Holds tensors up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, digest: str, compute: Callable[[], Tensor]) -> Tensor:
        """The features of an image, computed at the first call."""
        if (features := self._features.get(digest)) is not None:
            self._features.move_to_end(digest)
            self.num_hits += 1
            return features
        self.num_misses += 1
        features = compute()
        self._features[digest] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self.max_bytes and len(self._features) > 1:
            _, dropped = self._features.popitem(last=False)
            self.num_bytes -= dropped.nbytes
        return features

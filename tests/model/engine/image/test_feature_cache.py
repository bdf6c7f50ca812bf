"""Features of conditioning images are kept up to a number of bytes."""

from __future__ import annotations

import torch

from model.engine.image.feature_cache import ImageFeatureCache

BYTES = 4 * 10


def features() -> torch.Tensor:
    return torch.zeros(10)


def test_the_least_recently_used_are_dropped() -> None:
    cache, computed = ImageFeatureCache(2 * BYTES), []

    def get(digest: str) -> None:
        cache.get(digest, lambda: computed.append(digest) or features())

    for digest in ("a", "b", "a", "c", "a", "b"):
        get(digest)
    assert computed == ["a", "b", "c", "b"]
    assert (cache.num_hits, cache.num_misses) == (2, 4)
    assert cache.num_bytes == 2 * BYTES


def test_larger_than_the_cache() -> None:
    cache = ImageFeatureCache(BYTES - 1)
    for _ in range(2):
        assert torch.equal(cache.get("a", features), features())
    assert (cache.num_misses, cache.num_bytes) == (2, 0)

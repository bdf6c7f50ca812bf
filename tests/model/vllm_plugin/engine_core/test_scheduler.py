"""Chunks never end inside an image."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from vllm.multimodal.inputs import PlaceholderRange

from model.vllm_plugin.engine_core.scheduler import whole_images

LENGTH = 16


@given(st.lists(st.integers(1, 20), max_size=6), st.integers(0, 120), st.integers(0, 200))
def test_a_chunk_is_as_long_as_it_may_be(gaps: list[int], start: int, length: int) -> None:
    starts, place = [], 0
    for gap in gaps:
        starts.append(place + gap)
        place += gap + LENGTH
    features = [SimpleNamespace(mm_position=PlaceholderRange(at, LENGTH)) for at in starts]
    chunk = whole_images(SimpleNamespace(mm_features=features), start, length)
    assert 0 <= chunk <= length
    assert not any(at < start + chunk < at + LENGTH for at in starts) or chunk == 0
    longer = range(start + chunk + 1, start + length + 1)
    assert all(any(at < end < at + LENGTH for at in starts) for end in longer)

from __future__ import annotations

import pytest

from model.bench.text.workload import Workload
from model.checkpoint import seeded
from model.config.presets import preset
from model.processor import Processor
from model.segments import ImageSegment


@pytest.fixture(scope="module")
def workload() -> Workload:
    config = preset("tiny")
    return Workload(config, Processor(config, seeded.build_tokenizer(config)), 2, 5)


def test_requests_repeat_and_share_no_image(workload: Workload) -> None:
    first, second = workload.contexts(7, 2)
    assert workload.contexts(8, 1)[0][0] == second[0]
    assert [len(context) for context in (first, second)] == [3, 3]
    digests = [s.digest for c in (first, second) for s in c if isinstance(s, ImageSegment)]
    assert len(set(digests)) == 4


def test_the_cache_grows_with_the_batch_and_holds_the_longest_sequence(workload: Workload) -> None:
    least = workload.cache_bytes(1, 1, "float32")
    assert (
        least == workload.cache_bytes(2, 1, "float32") == 2 * workload.cache_bytes(1, 1, "float16")
    )
    assert workload.cache_bytes(100, 64, "float32") > least


def test_tokens_that_announce_images_are_unwanted(workload: Workload) -> None:
    special = workload.config.special_tokens
    assert set(workload.unwanted) == {
        special.bos_token_id, special.soi_token_id, special.image_token_id,
    }  # fmt: skip

"""Served logits against the plain PyTorch model, under everything that vLLM does to requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from model.engine.text.engine import VllmTextEngine
from tests.model.engine.served import Reference, greedy, interleaved, picture, text, together

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOLERANCE = 1e-3


async def test_prefill_and_greedy_steps_in_one_batch(
    engine: VllmTextEngine, reference: Reference
) -> None:
    """Requests with 0, 1 and 3 images: all prompt logits, and 32 steps."""
    everything = {"logprobs": -1, "prompt_logprobs": -1}
    results = await together(
        *(
            greedy(engine, interleaved(images, range(images)), 32, f"p{images}", **everything)
            for images in (0, 1, 3)
        )
    )
    assert [len(result.token_ids) for result in results] == [32, 32, 32]
    assert [len(result.logits[0]) for result in results] == [engine.config.txt_vocab_size] * 3
    assert max(reference.worst(result) for result in results) < TOLERANCE


async def test_many_requests_with_preemption(engine: VllmTextEngine, reference: Reference) -> None:
    """36 requests of 0..8 images, 64 tokens each, in a cache too small for them."""
    before = engine.statistics.num_preempted
    requests = [
        greedy(engine, interleaved(100 + i, range(i, i + i % 9)), 64, f"m{i}") for i in range(36)
    ]
    results = await together(*requests)
    assert engine.statistics.num_preempted > before
    assert max(reference.worst(result) for result in results) < TOLERANCE


async def test_images_matter(engine: VllmTextEngine, reference: Reference) -> None:
    """The same text with other pictures gives other logits, so the tests above prove something."""
    results = await together(
        *(greedy(engine, (text(1), picture(k), text(2)), 8, f"i{k}") for k in (50, 51))
    )
    ours, other = results
    assert reference.worst(ours) < TOLERANCE
    swapped = type(ours)(other.prompt, ours.token_ids, ours.logits, [], 0)
    assert reference.worst(swapped) > 0.01


async def test_prefix_caching_across_turns(engine: VllmTextEngine, reference: Reference) -> None:
    """A second turn computes only what is new."""
    context = interleaved(200, (60, 61))
    first = await greedy(engine, context, 40, "c1")
    resume = tuple(first.token_ids)
    second = await greedy(engine, context, 24, "c2", resume)
    length, block = len(second.prompt.token_ids), engine.options.block_size
    assert second.num_cached >= (length - 1) // block * block - block
    assert reference.worst(second) < TOLERANCE


async def test_shared_prefix_submitted_together(
    engine: VllmTextEngine, reference: Reference
) -> None:
    """Prefix hits on blocks that another request computes in the very same step."""
    shared = (*interleaved(300, (70, 71)), text(301, 30))
    tails = [(picture(72),), (picture(73),), (text(3),), (picture(72), text(4)), (picture(70),)]
    requests = [
        greedy(engine, (*shared, *tail, text(i)), 16, f"s{i}") for i, tail in enumerate(tails)
    ]
    results = await asyncio.gather(*requests)
    assert max(reference.worst(result) for result in results) < TOLERANCE


async def test_the_same_image_twice(engine: VllmTextEngine, reference: Reference) -> None:
    """Duplicates within a request and across requests."""
    contexts = [
        (text(1), picture(80), text(2), picture(80), text(3)),
        (picture(80), picture(80), picture(81), picture(80)),
        (text(9), picture(80)),
    ]
    requests = [greedy(engine, c, 16, f"d{i}") for i, c in enumerate(contexts)]
    results = await asyncio.gather(*requests)
    assert max(reference.worst(result) for result in results) < TOLERANCE


async def test_abort_midway_disturbs_nobody(engine: VllmTextEngine, reference: Reference) -> None:
    """Half of the requests go away while the others run; later ones take their blocks."""
    rng = np.random.default_rng(0)

    async def aborted(number: int) -> None:
        task = asyncio.ensure_future(
            greedy(engine, interleaved(400 + number, (number, 90)), 200, f"a{number}")
        )
        await asyncio.sleep(float(rng.uniform(0.05, 0.6)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    kept = [greedy(engine, interleaved(500 + i, (i, 90)), 48, f"k{i}") for i in range(8)]
    results = await asyncio.gather(*kept, *(aborted(i) for i in range(8)))
    later = await greedy(engine, interleaved(600, (90, 91, 92)), 32, "later")
    survivors = [result for result in results if result is not None]
    assert len(survivors) == 8
    assert max(reference.worst(result) for result in [*survivors, later]) < TOLERANCE

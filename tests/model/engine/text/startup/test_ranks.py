"""One model on several ranks: the numbers are those of the plain model, on one host and on two."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from model.engine.protocol import TextEnd
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.follower import RankHolder
from model.engine.text.startup.ranks import rank_arguments, share_processors
from model.sampling_params import SamplingParams
from service.local.embedded_redis import free_port
from tests.model.engine.served import Reference, greedy, interleaved, together

TOLERANCE = 1e-3


@pytest.mark.parametrize(
    ("processors", "num_ranks", "shares"),
    [
        ([0, 1], 2, "0|1"),
        ([2, 3, 6, 7, 9], 2, "2,3|6,7"),
        ([4], 2, "nobind"),
    ],
)
def test_every_rank_has_processors_of_its_own(
    processors: list[int], num_ranks: int, shares: str
) -> None:
    assert share_processors(processors, num_ranks) == shares


def test_hosts_find_each_other_by_the_leaders_address() -> None:
    alone = TextEngineOptions(Path("x"), tensor_parallel_size=4)
    assert rank_arguments(alone) == {"tensor_parallel_size": 4}
    one_of_two = replace(alone, num_hosts=2, host_rank=1, leader_address="text-0.text:29501")
    assert rank_arguments(one_of_two) == {
        "tensor_parallel_size": 4,
        "distributed_executor_backend": "mp",
        "nnodes": 2,
        "node_rank": 1,
        "master_addr": "text-0.text",
        "master_port": 29501,
    }


@pytest.fixture
def options(checkpoint: Path, tmp_path: Path) -> TextEngineOptions:
    return TextEngineOptions(
        checkpoint,
        cache_dir=tmp_path,
        kv_cache_bytes=48 << 20,
        max_num_seqs=8,
        max_num_batched_tokens=80,
        tensor_parallel_size=2,
        vllm={"logprobs_mode": "raw_logits", "max_logprobs": -1},
    )


@contextmanager
def follower_of(options: TextEngineOptions) -> Iterator[None]:
    """A second host on this machine, if there are two."""
    if options.num_hosts == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_follower, args=(replace(options, host_rank=1),))
    process.start()
    try:
        yield
    finally:
        process.join(60)
        process.kill()
        process.join()


def run_follower(options: TextEngineOptions) -> None:
    RankHolder(options).run()


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("num_hosts", [1, 2])
async def test_two_ranks_compute_what_one_does(
    options: TextEngineOptions, reference: Reference, num_hosts: int
) -> None:
    """Logits of requests with 0, 1 and 3 images, and the image tokens of a context."""
    options = replace(options, num_hosts=num_hosts, leader_address=f"127.0.0.1:{free_port()}")
    engine = VllmTextEngine(options)
    with follower_of(options):
        await engine.start()
        try:
            results = await together(
                *(greedy(engine, interleaved(n, range(n)), 24, f"p{n}", (), -1) for n in (0, 1, 3))
            )
            context = interleaved(7, (1, 2))
            turn = engine.generate(context, SamplingParams(temperature=0.0), "i", images="force")
            end = [event async for event in turn][-1]
            prompt = await engine.prompts.build(context, True, ())
        finally:
            await engine.stop()
    assert max(reference.worst(result) for result in results) < TOLERANCE
    assert isinstance(end, TextEnd) and end.image_tokens is not None
    _, expected_NTD = reference.read(prompt)
    assert (end.image_tokens - expected_NTD[-1]).abs().max() < TOLERANCE

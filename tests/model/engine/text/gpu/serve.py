"""Serves requests on vLLM's GPU path, and prints what they gave as JSON.

usage: python -m tests.model.engine.text.gpu.serve CHECKPOINT DIRECTORY RUNNER WAY

WAY is `interpreted` (without a GPU), or `eager` or `compiled` on a card.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.model.engine.text.gpu import launches, platform

NUM_TOKENS = 4
IMAGES = (0, 1, 3, 8)
# Tokens before the resumption: enough that what comes after it depends on their penalties.
_RESUMED_AT = 5
# Requests that outgrow the cache together: their prompts fit, their answers do not.
_CROWD, _CROWD_TOKENS = 4, 28


def main(checkpoint: Path, directory: Path, runner: int, way: str) -> None:
    """Serve everything in one engine, then compare with the plain model."""
    directory.mkdir(exist_ok=True)
    interpreted = way == "interpreted"
    if interpreted:
        platform.install(runner)
        launches.record(directory / "launches.jsonl")
    from model.engine.text.engine import VllmTextEngine
    from model.engine.text.options import TextEngineOptions

    options = TextEngineOptions(
        checkpoint,
        cache_dir=directory / "cache",
        dtype="float32",
        max_model_len=256,
        # Chunks end between the images of a prompt, and the cache holds little more than it must.
        max_num_batched_tokens=80,
        max_num_seqs=_CROWD,
        kv_cache_bytes=4608 << 10,
        block_size=16,
        compile=way == "compiled",
        # Ours would take minutes in Triton's interpreter: test_triton.py runs it on fewer tokens.
        kernel="torch" if interpreted else "triton",
        vllm=(platform.NATIVE if interpreted else {})
        | {"logprobs_mode": "raw_logits", "max_logprobs": -1},
    )
    device = "cpu" if interpreted else "cuda"
    print(json.dumps(asyncio.run(_serve(VllmTextEngine(options), device))))  # noqa: T201


async def _serve(engine: Any, device: str) -> dict[str, Any]:
    from tests.model.engine.served import Reference

    await engine.start()
    try:
        config = engine._llm.vllm_config
        served = {
            "device": str(config.device_config.device_type),
            "platform": _platform(),
            "runner": 2 if config.use_v2_model_runner else 1,
            "share": config.cache_config.gpu_memory_utilization,
            "planned": engine.options.gpu_memory_utilization,
        }
        reference = Reference(engine.options.checkpoint, device)
        served |= await _parity(engine, reference)
        served |= await _preempted(engine, reference)
        served |= await _image_tokens(engine, reference)
        served |= await _resumed(engine)
    finally:
        await engine.stop()
    return served


def _platform() -> str:
    from vllm.platforms import current_platform

    return "cuda" if current_platform.is_cuda() else "other"


async def _parity(engine: Any, reference: Any) -> dict[str, Any]:
    """Requests of 0, 1, 3 and 8 images together, then one whose prefix is cached."""
    from tests.model.engine.served import greedy, interleaved, together

    contexts = [interleaved(10 + images, range(images)) for images in IMAGES]
    results = await together(
        *(greedy(engine, c, NUM_TOKENS, f"r{i}") for i, c in enumerate(contexts))
    )
    first = results[IMAGES.index(3)]
    again = await greedy(
        engine, contexts[IMAGES.index(3)], NUM_TOKENS, "again", tuple(first.token_ids)
    )
    return {
        "worst": [reference.worst(result) for result in (*results, again)],
        "num_tokens": [len(result.token_ids) for result in (*results, again)],
        "tokens": [result.token_ids for result in (*results, again)],
        "cached": again.num_cached,
    }


async def _preempted(engine: Any, reference: Any) -> dict[str, Any]:
    """Requests of which some must give up their blocks."""
    from tests.model.engine.served import greedy, interleaved, together

    before = engine.statistics.num_preempted
    results = await together(
        *(
            greedy(engine, interleaved(20 + i, (i, i + 1)), _CROWD_TOKENS, f"c{i}")
            for i in range(_CROWD)
        )
    )
    return {
        "num_preempted": engine.statistics.num_preempted - before,
        "preempted": [reference.worst(result) for result in results],
    }


async def _image_tokens(engine: Any, reference: Any) -> dict[str, Any]:
    """The largest difference of an image token from the plain model's."""
    from tests.model.engine.served import interleaved

    prompt = await engine.prompts.build(interleaved(40, (5, 6)), True, ())
    tokens_TC, cached = await engine._image_tokens(prompt, "image", 0)
    expected_TC = reference.read(prompt)[1][-1]
    difference = float((tokens_TC - expected_TC).abs().max())
    return {"image_tokens": difference, "image_tokens_size": float(expected_TC.abs().max())}


async def _resumed(engine: Any) -> dict[str, Any]:
    """A turn with penalties, its second half as another process resumes it.

    Beside them a second half that knows nothing of the first one's penalties, and a turn without.
    """
    from model.sampling_params import SamplingParams
    from model.segments import TokenSegment
    from tests.model.engine.served import interleaved

    plain = SamplingParams(temperature=0.0, min_tokens=2 * _RESUMED_AT)
    penalised = replace(plain, presence_penalty=1.5, frequency_penalty=1.0)

    async def turn(
        name: str, sampling: SamplingParams, resume: tuple[int, ...] = (), given: Any = ()
    ) -> list[int]:
        ids: list[int] = []
        context, most = (*interleaved(51, (7,)), *given), 2 * _RESUMED_AT
        async for event in engine.generate(context, sampling, name, most, "forbid", resume):
            ids += getattr(event, "token_ids", ())
        return ids

    whole = await turn("whole", penalised)
    half = tuple(whole[:_RESUMED_AT])
    forgetful = replace(penalised, min_tokens=_RESUMED_AT)
    return {
        "whole": whole,
        "resumed": await turn("resumed", penalised, half),
        "forgotten": await turn("forgotten", forgetful, given=(TokenSegment(half),)),
        "without_penalties": await turn("plain", plain),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

"""The baseline computes what the plain model does, at the published cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.bench.text.published import PublishedLoop
from model.bench.text.workload import Workload
from model.checkpoint import seeded
from model.engine.text.options import TextEngineOptions
from model.mm_interleaved import Batch
from model.offline.generation import TextGeneration, generate_texts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded.create("micro", tmp_path_factory.mktemp("bench") / "micro", seed=3)


async def test_its_tokens_are_the_plain_models(checkpoint: Path) -> None:
    workload = Workload.make(checkpoint, 2, 6)
    loop = PublishedLoop(TextEngineOptions(checkpoint, dtype="float32"), workload)
    end = loop.model.config.special_tokens.eos_token_id
    with torch.no_grad():
        loop.model.text_decoder.head.bias[end] -= 100  # The loop goes on after an end.
    contexts, num_tokens = workload.contexts(0, 2), 6
    served = await loop.serve(contexts, num_tokens)
    await loop.stop()
    assert [len(times) for times in served.arrivals] == [num_tokens] * 2

    from model.checkpoint import load
    from model.mm_interleaved import TEXT

    plain = load.load_model(checkpoint, TEXT)
    with torch.no_grad():
        # Tokens that a request of the benchmark never gets.
        plain.text_decoder.head.bias[[end, *workload.unwanted]] -= 100
    for context, ours in zip(contexts, served.token_ids, strict=True):
        prompt = workload.processor.encode(context)
        pixels = torch.stack([workload.processor.pixels(image) for image in prompt.images])
        ids, num = torch.tensor([prompt.input_ids]), torch.tensor([len(pixels)])
        options = TextGeneration(max_length=num_tokens, min_length=99, num_beams=1)
        theirs = generate_texts(plain, Batch(ids, pixels, num), options)
        assert theirs[0, 1:].tolist() == ours

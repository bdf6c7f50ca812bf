"""Models of other sizes than the presets: nothing may depend on one of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from model.checkpoint import seeded, store
from model.checkpoint.packaged import base_model
from model.config.presets import preset
from model.config.schema import LanguageModelConfig, SynchronizerConfig
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from tests.model import golden
from tests.model.checkpoint import small_llama
from tests.model.engine.served import Reference, greedy, interleaved, together

pytestmark = pytest.mark.slow


def recorded(directory: Path) -> Path:
    """The model of the recorded official numbers."""
    store.save_model(golden.model(), golden.tokenizer(), directory)
    return directory


def odd(directory: Path) -> Path:
    """Heads of 24 numbers, two for each key, two maps that do not fill their tokens evenly."""
    tiny = preset("tiny")
    config = dataclasses.replace(
        tiny,
        name="odd",
        llm=LanguageModelConfig(
            hidden_size=144,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=3,
            intermediate_size=200,
            vocab_size=2048,
            rope_theta=50000.0,
            max_position_embeddings=700,
        ),
        image_decoder=dataclasses.replace(
            tiny.image_decoder,
            perceiver=dataclasses.replace(tiny.image_decoder.perceiver, encoder_hidden_size=144),
        ),
        visual_perceiver=dataclasses.replace(tiny.visual_perceiver, num_queries=9),
        num_img_token=9,
        cross_attention_frequency=2,
        spatial_shapes=tiny.vision.map_sizes[1:3],
        max_images=3,
        text_synchronizer=SynchronizerConfig(
            n_heads=3, n_points=5, ratio=0.5, attn_dim=96, max_num_image_per_seq=6
        ),
    )
    return seeded.create_from(config, directory)


def packaged(directory: Path) -> Path:
    """Around a package's language model, with a low-rank update: few layers, tied embeddings."""
    path = directory.with_name("small.gguf")
    small_llama.write(path)
    base = small_llama.as_package(path)
    model = small_llama.model_around(base)
    names = base_model.tokenizer(base, model.config)
    base_model.save_trained(model, names, directory, base, small_llama.updated(model))
    return directory


# What vLLM reads of a package's weights are halves in float16.
@pytest.mark.parametrize(("make", "tolerance"), [(recorded, 1e-3), (odd, 1e-3), (packaged, 2e-2)])
async def test_parity(make, tolerance: float, tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint")
    engine = VllmTextEngine(
        TextEngineOptions(
            checkpoint,
            cache_dir=tmp_path / "cache",
            max_num_batched_tokens=96,
            vllm={"logprobs_mode": "raw_logits"},
        )
    )
    await engine.start()
    try:
        requests = [greedy(engine, interleaved(i, range(i % 4)), 32, f"f{i}") for i in range(8)]
        results = await together(*requests)
    finally:
        await engine.stop()
    reference = Reference(checkpoint)
    assert max(reference.worst(result) for result in results) < tolerance

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.bench.image import published
from model.bench.image.published import PublishedImages, published_images, save_pipeline
from model.bench.image.step import StepInputs
from model.checkpoint import seeded
from model.config.presets import preset
from model.image_decoder.image_decoder import ImageDecoder
from model.mm_interleaved import IMAGE, MMInterleaved
from model.sampling_params import ImageParams
from tests.model.bench.image.test_load import load_of

CONFIG = preset("tiny")


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    model = MMInterleaved(CONFIG, IMAGE).eval().requires_grad_(False)
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and "pos_embed" not in name and "clip_" not in name:
            tensor.copy_(seeded._random_like(name, tensor, 1))
    return model.image_decoder


@torch.no_grad()
def test_the_published_step_predicts_what_ours_does(decoder: ImageDecoder) -> None:
    torch.manual_seed(2)
    x = StepInputs.random(CONFIG, 2, "cpu")
    sampler = decoder.sampler()
    ours = sampler.predict(x.latents_BCHW, x.timesteps_B, x.prepare(sampler))
    theirs = x.published(decoder)
    assert ours.shape == theirs.shape == (4, *x.latents_BCHW.shape[1:])
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_the_published_loop_generates_one_image_per_seed(
    decoder: ImageDecoder, tmp_path: Path
) -> None:
    save_pipeline(decoder, tmp_path)
    x = StepInputs.random(CONFIG, 2, "cpu")
    params = [ImageParams(num_inference_steps=1, seed=seed) for seed in (3, 3)]
    tokens = x.tokens_BTD[:1].expand(2, -1, -1)
    features = x.features_B1VD[:1].expand(2, -1, -1, -1)
    images = published_images(decoder, tmp_path, tokens, features, params)
    side = CONFIG.image_decoder.image_size
    assert images.shape == (2, 3, side, side)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize(("largest", "batches"), [(1, [1, 1, 1, 1]), (2, [1, 2, 1])])
async def test_all_who_wait_are_one_batch(
    monkeypatch: pytest.MonkeyPatch, largest: int, batches: list[int]
) -> None:
    sizes: list[int] = []

    def generate(decoder: Any, directory: Any, tokens: torch.Tensor, *_: Any) -> None:
        sizes.append(len(tokens))
        time.sleep(0.05)

    monkeypatch.setattr(published, "published_images", generate)
    server = PublishedImages.__new__(PublishedImages)
    server.decoder, server.directory = None, Path()  # type: ignore[assignment]
    latencies_s = await server.serve(load_of((0.0,) * 4), torch.zeros(1, 1, 1, 1), largest)
    assert sizes == batches
    assert len(latencies_s) == 4

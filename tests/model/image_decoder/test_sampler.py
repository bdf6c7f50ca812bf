"""Noise, guidance, and the recorded images of the official implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config.presets import preset
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import ImageSampler, guide, initial_noise
from model.image_decoder.unet.conditions import Conditions
from model.synchronizer.unet_synchronizer import flatten_maps
from tests.model import golden
from tests.model.image_decoder.recorded import previous


def test_every_step_of_guided_sampling(
    decoder: ImageDecoder, sampler: ImageSampler, maps: tuple[Tensor, ...]
) -> None:
    full, recorded = golden.tensors("full_model"), golden.tensors("generate_images")
    call = golden.document()["sets"]["generate_images"]["runs"]["cfg"]
    target = recorded["cfg/target_image_idxs"]
    tokens = full["out/conditioning_gen"][target]
    features = flatten_maps(previous(maps, full["out/imgdec_prev_image_gen"][target]))
    visible = full["out/imgdec_mmfs_mask_gen"][target]
    generator = torch.Generator().manual_seed(call["base_seed"])
    initial = initial_noise(decoder.config, generator, len(target))
    golden.assert_close("initial", initial, recorded["cfg/init_latents"], 0)
    conditions = sampler.join([sampler.prepare(tokens, features, visible)], guided=True)
    seen: list[Tensor] = []
    predict = sampler.predict

    def note(latents: Tensor, timesteps: Tensor, batch: Conditions) -> Tensor:
        seen.append(latents)
        return predict(latents, timesteps, batch)

    sampler.predict = note  # type: ignore[method-assign]
    try:
        final = sampler.denoise(
            initial,
            conditions,
            generator,
            num_inference_steps=call["num_inference_steps"],
            guidance_scale=call["guidance_scale"],
        )
    finally:
        del sampler.predict
    steps = torch.stack([*seen[1:], final])
    golden.assert_recorded("cfg/latents_after_step", steps, recorded, 2e-3)
    golden.assert_close("final", final, recorded["cfg/final_latents"], 2e-3)


def test_noise_of_a_seed() -> None:
    """The same numbers for an image alone and for a batch's first; another size is other noise."""
    config = preset("tiny").image_decoder
    alone = initial_noise(config, torch.Generator().manual_seed(3))
    batch = initial_noise(config, torch.Generator().manual_seed(3), 2)
    assert alone.shape == (1, 16, 12, 12)
    assert torch.equal(batch[:1], alone)
    assert initial_noise(config, torch.Generator(), size=(6, 8)).shape == (1, 16, 6, 8)


def test_guidance_has_a_scale_for_each_image() -> None:
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    both = torch.cat((negative, positive))
    guided = guide(both, torch.tensor([1.0, 3.0]))
    assert torch.allclose(guided[0], positive[0], atol=1e-6)
    assert torch.allclose(guided[1], negative[1] + 3 * (positive[1] - negative[1]), atol=1e-6)
    assert guide(positive, torch.ones(2)) is positive
    restored = guide(both, torch.tensor([5.0, 5.0]), torch.ones(2))
    assert torch.allclose(restored.std((1, 2, 3)), positive.std((1, 2, 3)), atol=1e-5)

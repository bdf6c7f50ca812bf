"""The image decoder gives the recorded numbers of the official implementation."""

import pytest
import torch
from torch import Tensor

from model.config.presets import preset
from model.image_decoder import unet_step
from model.image_decoder.conditions import Invariants
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import PictureSampler
from model.synchronizer.folding import FoldedBlock, FoldedSynchronizer
from model.synchronizer.unet_synchronizer import flatten_maps
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer
from tests.model import golden


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> None:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    decoder = ImageDecoder(golden.config()).eval()
    decoder.load_state_dict(golden.part(golden.state_dict(), "image_decoder."))
    return decoder


@pytest.fixture(scope="module")
def maps() -> tuple[Tensor, ...]:
    tokenizer = VisualTokenizer(golden.config()).eval()
    tokenizer.load_state_dict(golden.part(golden.state_dict(), "visual_tokenizer."))
    return tokenizer(golden.images()).maps


@pytest.fixture(scope="module")
def sampler(decoder: ImageDecoder) -> PictureSampler:
    return decoder.sampler()


def previous(maps: tuple[Tensor, ...], index_B: Tensor) -> list[Tensor]:
    """The maps of a preceding image each, zeros where there is none (-1)."""
    there = (index_B >= 0)[:, None, None, None, None]
    return [x[index_B.clamp(min=0)][:, None] * there for x in maps]


def unet_inputs(maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    full = golden.tensors("full_model")
    index = full["in/unet_image_index"]
    return (
        full["in/unet_latents"],
        full["in/unet_timesteps"],
        full["out/conditioning_train"][index],
        previous(maps, full["out/imgdec_prev_image_train"][index]),
        full["out/imgdec_mmfs_mask_train"][index],
    )


def test_image_tokens(decoder: ImageDecoder) -> None:
    full = golden.tensors("full_model")
    for use in ("train", "gen"):
        tokens = decoder.image_tokens(
            full[f"out/context_features_{use}"], full[f"out/context_attention_mask_{use}"]
        )
        golden.assert_close(f"tokens {use}", tokens, full[f"out/conditioning_{use}"], 1e-4)


def test_one_step(sampler: PictureSampler, maps: tuple[Tensor, ...]) -> None:
    latents, timesteps, tokens, features, visible = unet_inputs(maps)
    prepared = sampler.prepare(tokens, features, visible)
    noise = sampler.predict(latents, timesteps, sampler.batch([prepared], guided=False))
    golden.assert_close("noise", noise, golden.tensors("full_model")["out/unet_noise_pred"], 1e-4)


def test_one_step_without_synchronizer(sampler: PictureSampler, maps: tuple[Tensor, ...]) -> None:
    latents, timesteps, tokens, _, visible = unet_inputs(maps)
    none = tokens.new_zeros(2, 0)
    invariants = unet_step.prepare(sampler.unet, None, tokens, none, visible)
    noise = unet_step.denoise(sampler.unet, None, latents, timesteps, invariants)
    expected = golden.tensors("full_model")["out/unet_noise_pred_no_mmfs"]
    golden.assert_close("noise", noise, expected, 1e-4)


class Recording:
    """A synchronizer whose samples and residuals are noted."""

    def __init__(self, synchronizer: FoldedSynchronizer) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.project = synchronizer.project
        self.blocks = [RecordingBlock(block, self.calls) for block in synchronizer.blocks]


class RecordingBlock:
    def __init__(self, block: FoldedBlock, calls: list[tuple[Tensor, Tensor]]) -> None:
        self.block, self.calls = block, calls

    def attend(self, sample: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        residual = self.block.attend(sample, values, visible)
        self.calls.append((sample, residual))
        return residual


def test_residuals_of_every_block(sampler: PictureSampler, maps: tuple[Tensor, ...]) -> None:
    full = golden.tensors("full_model")
    latents, timesteps, tokens, features, visible = unet_inputs(maps)
    prepared = sampler.prepare(tokens, features, visible)
    recording = Recording(sampler.synchronizer)
    unet_step.denoise(sampler.unet, recording, latents, timesteps, prepared)
    samples, residuals = zip(*recording.calls, strict=True)
    golden.assert_close("middle before", samples[-1], full["out/unet_mid_before_mmfs"], 1e-4)
    after = samples[-1] + residuals[-1]
    golden.assert_close("middle after", after, full["out/unet_mid_after_mmfs"], 1e-4)
    assert len(residuals) == 13
    for index, residual in enumerate(residuals[:-1]):
        stride = residual.shape[-1] // 8
        expected = full[f"out/unet_down{index:02}_mmfs_residual_8x8"]
        golden.assert_close(f"skip {index}", residual[..., ::stride, ::stride], expected, 1e-4)


@pytest.mark.parametrize("run", ["cfg", "nocfg"])
def test_generate_images(decoder: ImageDecoder, maps: tuple[Tensor, ...], run: str) -> None:
    full, recorded = golden.tensors("full_model"), golden.tensors("generate_images")
    call = golden.document()["sets"]["generate_images"]["runs"][run]
    target = torch.tensor(call["target_image_idxs"])
    images = decoder.generate_images(
        full["out/context_features_gen"][target],
        full["out/context_attention_mask_gen"][target],
        previous(maps, full["out/imgdec_prev_image_gen"][target]),
        full["out/imgdec_mmfs_mask_gen"][target],
        num_inference_steps=call["num_inference_steps"],
        guidance_scale=call["guidance_scale"],
    )
    golden.assert_close("image", images[..., ::8, ::8], recorded[f"{run}/image_stride8"], 5e-4)
    golden.assert_close(
        "crop",
        images[:, :, 200:224, 300:324],
        recorded[f"{run}/image_crop_24x24_at_200_300"],
        5e-4,
    )


def test_every_step_of_guided_sampling(
    decoder: ImageDecoder, sampler: PictureSampler, maps: tuple[Tensor, ...]
) -> None:
    full, recorded = golden.tensors("full_model"), golden.tensors("generate_images")
    target = recorded["cfg/target_image_idxs"]
    tokens = full["out/conditioning_gen"][target]
    features = previous(maps, full["out/imgdec_prev_image_gen"][target])
    visible = full["out/imgdec_mmfs_mask_gen"][target]
    generator = torch.Generator().manual_seed(decoder.config.base_seed)
    initial = sampler.initial_latents(len(target), generator)
    golden.assert_close("initial", initial, recorded["cfg/init_latents"], 0)
    invariants = sampler.batch([sampler.prepare(tokens, features, visible)], guided=True)
    seen: list[Tensor] = []
    predict = sampler.predict

    def note(latents: Tensor, timesteps: Tensor, batch: Invariants) -> Tensor:
        seen.append(latents)
        return predict(latents, timesteps, batch)

    sampler.predict = note  # type: ignore[method-assign]
    try:
        final = sampler.denoise(initial, invariants, generator, num_inference_steps=5)
    finally:
        del sampler.predict
    for step, latents in enumerate([*seen[1:], final]):
        expected = recorded["cfg/latents_after_step_stride2"][step]
        golden.assert_close(f"step {step}", latents[..., ::2, ::2], expected, 2e-3)
    golden.assert_close("final", final, recorded["cfg/final_latents"], 2e-3)


def test_guidance_halves_share_what_they_can(sampler: PictureSampler) -> None:
    """One walk over both halves equals a walk for each."""
    config = golden.config()
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 64, 64, generator=generator)
    tokens = torch.randn(2, 77, 64, generator=generator)
    maps = [torch.randn(2, 1, 64, s, s, generator=generator) for s in config.vision.map_sizes]
    timesteps, visible = torch.tensor([700, 3]), torch.tensor([[1], [0]])
    prepared = sampler.prepare(tokens, maps, visible)
    both = sampler.predict(latents, timesteps, sampler.batch([prepared], guided=True))
    negative = Invariants.stack(
        [Invariants(sampler.negative.keys, sampler.negative.values, (), visible[:1])] * 2
    )
    negative = Invariants(negative.keys, negative.values, prepared.maps, prepared.visible)
    alone = [sampler.predict(latents, timesteps, half) for half in (negative, prepared)]
    golden.assert_close("halves", both, torch.cat(alone), 2e-5)


@pytest.mark.parametrize("name", ["tiny", "13b"])
def test_presets_build_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        decoder = ImageDecoder(preset(name))
    config = preset(name).image_decoder
    layers, levels = config.unet["layers_per_block"], len(config.unet["block_out_channels"])
    skips = decoder.decoder.mmfs_module.mmfs_down_blocks
    assert len(skips) == levels * (layers + 1)
    sides = [block.mmfs.base_spatial_shape for block in skips]
    assert sides == [config.latent_size >> (i // (layers + 1)) for i in range(len(skips))]


def test_flattened_maps_keep_their_order() -> None:
    maps = [torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[[9.0]]]])]
    assert flatten_maps(maps).flatten().tolist() == [0, 1, 2, 3, 9]

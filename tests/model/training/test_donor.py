"""Vision and image decoder of one checkpoint in a model with another language model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoint import store
from model.config.schema import ConfigError, MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.donor import adopt
from model.training.encoder import scale_latents

_FACTOR = 0.25


@pytest.fixture
def donor(model: MMInterleaved, processor: Processor, tmp_path: Path) -> Path:
    scale_latents(model, _FACTOR)
    store.save_model(model, processor.tokenizer, tmp_path)
    return tmp_path


def _other(config: MMInterleavedConfig, image_size: int) -> MMInterleaved:
    """A model with a wider language model, whose pictures have another size."""
    decoder = config.image_decoder
    perceiver = replace(decoder.perceiver, encoder_hidden_size=96)
    unet = {**decoder.unet, "sample_size": image_size // 8}
    decoder = replace(decoder, image_size=image_size, perceiver=perceiver, unet=unet)
    llm = replace(config.llm, hidden_size=96)
    return MMInterleaved(replace(config, llm=llm, image_decoder=decoder))


def test_whatever_does_not_depend_on_the_language_model_is_lent(
    config: MMInterleavedConfig, model: MMInterleaved, donor: Path
) -> None:
    other = _other(config, 128)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    adopt(other, donor)
    lent = model.state_dict()
    own = []
    for name, tensor in other.state_dict().items():
        if tensor.shape != lent[name].shape or not torch.equal(tensor, lent[name]):
            own.append(name)
            assert torch.equal(tensor, before[name]), name
    assert not [name for name in own if "encoder.vision_model" in name or ".unet." in name]
    assert {name for name in own if name.startswith("visual_tokenizer.")} == {
        "visual_tokenizer.proj.weight",
        "visual_tokenizer.proj.bias",
    }
    # The tables of the decoder's synchronizer have the size of the picture.
    decoder = [name for name in own if name.startswith("image_decoder.decoder.")]
    assert decoder
    assert all(name.endswith("pos_embed") for name in decoder)


def test_latents_keep_their_scale(config: MMInterleavedConfig, donor: Path) -> None:
    other = _other(config, 96)
    adopt(other, donor)
    assert other.config.image_decoder.vae["scaling_factor"] == _FACTOR
    pixels_13SS = torch.rand(1, 3, 96, 96)
    decoder = other.image_decoder.decoder
    latents = decoder.encode(pixels_13SS, torch.zeros(()))
    mean = decoder.vae.encode(pixels_13SS * 2 - 1).latent_dist.mean
    torch.testing.assert_close(latents, mean * _FACTOR)


def test_a_donor_of_another_width_is_refused(config: MMInterleavedConfig, donor: Path) -> None:
    vision = replace(config.vision, intermediate_size=2 * config.vision.intermediate_size)
    other = MMInterleaved(replace(config, vision=vision))
    with pytest.raises(ConfigError, match=r"does not fit 'tiny': visual_tokenizer\.encoder"):
        adopt(other, donor)

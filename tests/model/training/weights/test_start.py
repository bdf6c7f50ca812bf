"""Starting values, and donors of vision and image decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoint import store
from model.config.presets import preset
from model.config.schema import ConfigError, LanguageModelConfig, MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.positions import rotary_table, rotate
from model.processor import Processor
from model.text_decoder.text_decoder import CausalSelfAttention
from model.training.objectives.decoder.autoencoder import scale_latents
from model.training.weights.start import adopt, match_tokens


def _matching() -> tuple[LanguageModelConfig, CausalSelfAttention]:
    torch.manual_seed(0)
    config = preset("tiny").llm
    attention = CausalSelfAttention(config, 0)
    match_tokens(attention, config)
    return config, attention


@torch.no_grad()
def test_a_matching_head_finds_the_earlier_token_that_is_like_its_own() -> None:
    config, attention = _matching()
    words_LD = torch.randn(40, config.hidden_size)
    words_LD[-1] = words_LD[5]
    rotation = rotary_table(config, torch.arange(40)[None], torch.float32)
    q_Ld, k_Ld = (
        rotate(linear(words_LD)[None, None, :, : config.head_width], rotation)[0, 0]
        for linear in (attention.q_proj, attention.k_proj)
    )
    weights_L = (q_Ld[-1] @ k_Ld[:-1].T / config.head_width**0.5).softmax(-1)
    assert int(weights_L.argmax()) == 5
    assert float(weights_L[5]) > 0.9


@torch.no_grad()
def test_a_matching_head_repeats_what_it_finds() -> None:
    config, attention = _matching()
    word_D = torch.randn(config.hidden_size)
    width = config.head_width
    repeated_D = attention.o_proj.weight[:, :width] @ (attention.v_proj.weight[:width] @ word_D)
    assert float(torch.cosine_similarity(repeated_D, word_D, dim=0)) > 0.4


_FACTOR = 0.25


@pytest.fixture
def donor(model: MMInterleaved, processor: Processor, tmp_path: Path) -> Path:
    scale_latents(model, _FACTOR)
    store.save_model(model, processor.tokenizer, tmp_path)
    return tmp_path


def _other(config: MMInterleavedConfig, image_size: int) -> MMInterleaved:
    """A model with a wider language model, whose images have another size."""
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
    # The tables of the decoder's synchronizer have the size of the image.
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


def test_image_tokens_start_by_telling_the_words_of_a_context_apart(
    config: MMInterleavedConfig, model: MMInterleaved
) -> None:
    torch.manual_seed(0)
    context_1KD = torch.randn(1, 12, config.image_decoder.perceiver.encoder_hidden_size)
    spreads = []
    for each in (MMInterleaved(config), model):
        perceiver = each.image_decoder.perceiver_resampler
        queries_1QD = perceiver.blip2qformer.layernorm(perceiver.queries)
        attention = perceiver.blip2qformer.encoder.layer[0].crossattention.attention
        spreads.append(attention(queries_1QD, context_1KD, None).std(1).mean())
    assert spreads[1] > 3 * spreads[0]

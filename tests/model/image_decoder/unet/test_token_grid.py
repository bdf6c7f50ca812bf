"""Cross-attention that knows places reads the tokens around each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_decoder import StableDiffusion
from model.image_decoder.unet.conditions import Conditions
from model.image_decoder.unet.step import UNetStep
from model.image_decoder.unet.token_grid import TokenCanvas, know_places, places

CONFIG = preset("micro")
NUM_TOKENS = 36


def _unet(config: MMInterleavedConfig) -> UNet2DConditionModel:
    return UNet2DConditionModel(**dict(config.image_decoder.unet))


def test_neighbours_are_alike_and_every_place_is_its_own() -> None:
    places_GF = places(12, 12)
    likeness_GG = (places_GF @ places_GF.T).view(12, 12, 12, 12)
    torch.testing.assert_close(places_GF.square().mean(1), torch.ones(144))
    own, beside, afar = likeness_GG[5, 5, 5, 5], likeness_GG[5, 5, 5, 6], likeness_GG[5, 5, 0, 11]
    assert own > beside + 4 > afar + 8
    # A coarser map's place lies in the middle of its cells.
    coarse = (places(6, 12) @ places_GF.T).view(6, 6, 12, 12)[2, 2]
    block = coarse[4:6, 4:6].flatten()
    assert torch.allclose(block, block[:1].expand(4), rtol=1e-3)
    assert block.min() > coarse[6:].max() and block.min() > coarse[:4].max()


def test_at_first_a_change_of_one_token_shows_around_its_cell() -> None:
    config = preset("storybook")
    torch.manual_seed(0)
    unet = _unet(config)
    know_places(unet, 144)
    step = UNetStep(unet, None)
    width = config.image_decoder.perceiver.hidden_size
    tokens_1TD = torch.randn(1, 144, width)
    changed_1TD = tokens_1TD.clone()
    changed_1TD[0, 12 * 3 + 8] = torch.randn(width)
    none = tokens_1TD.new_zeros(1, 0)
    noise_1CHW = torch.randn(1, unet.config.in_channels, 24, 24)
    with torch.no_grad():
        first, second = (
            step.predict(noise_1CHW, torch.tensor([500]), step.prepare(tokens, none, none))
            for tokens in (tokens_1TD, changed_1TD)
        )
    difference_HW = (first - second).abs().mean((0, 1))
    near = difference_HW[4:10, 14:20].mean()
    assert near > 4 * difference_HW[14:, :10].mean()


def test_diffusers_evaluates_the_same_modules_alike() -> None:
    torch.manual_seed(0)
    unet = _unet(CONFIG).eval()
    know_places(unet, NUM_TOKENS)
    torch.nn.init.zeros_(unet.token_canvas.weight)
    torch.nn.init.zeros_(unet.token_canvas.bias)
    tokens_1TD = torch.randn(1, NUM_TOKENS, unet.config.cross_attention_dim)
    side = CONFIG.image_decoder.latent_size
    noise_1CHW = torch.randn(1, unet.config.in_channels, side, side)
    none, time = tokens_1TD.new_zeros(1, 0), torch.tensor([300])
    step = UNetStep(unet, None)
    with torch.no_grad():
        ours = step.predict(noise_1CHW, time, step.prepare(tokens_1TD, none, none))
        theirs = unet(noise_1CHW, time, tokens_1TD).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_canvas_shows_each_token_at_the_latents_of_its_cell() -> None:
    canvas = TokenCanvas(width=5, channels=7, scale=2)
    tokens_1TD = torch.randn(1, 9, 5)
    changed_1TD = tokens_1TD.clone()
    changed_1TD[0, 5] += 1  # The second row, the last column.
    with torch.no_grad():
        difference_1CSS = canvas(changed_1TD) - canvas(tokens_1TD)
    assert difference_1CSS.shape == (1, 7, 6, 6)
    is_changed_SS = difference_1CSS[0].abs().sum(0) > 0
    assert is_changed_SS[2:4, 4:].all() and is_changed_SS.sum() == 4


def test_the_canvas_reaches_the_prediction_of_both_guidance_halves() -> None:
    torch.manual_seed(0)
    unet = _unet(CONFIG)
    know_places(unet, NUM_TOKENS)
    step = UNetStep(unet, None)
    none = torch.zeros(1, 0)
    tokens_2TD = torch.randn(2, NUM_TOKENS, unet.config.cross_attention_dim)
    side = CONFIG.image_decoder.latent_size
    noise_1CHW = torch.randn(1, unet.config.in_channels, side, side)
    with torch.no_grad():
        negative, image = (step.prepare(x[None], none, none) for x in tokens_2TD)
        both = step.predict(noise_1CHW, torch.tensor([500]), Conditions.stack([image], negative))
        alone = [step.predict(noise_1CHW, torch.tensor([500]), x) for x in (negative, image)]
        torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-4)
        bare = step.predict(noise_1CHW, torch.tensor([500]), replace(image, canvas=()))
    assert (bare - alone[1]).abs().mean() > 0.01


@pytest.mark.parametrize("number", [63, 64])
def test_tokens_that_form_no_grid_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} image tokens form no grid over 12 x 12"):
        know_places(_unet(CONFIG), number)


def test_the_configuration_decides() -> None:
    for is_grid in (False, True):
        perceiver = replace(CONFIG.image_decoder.perceiver, num_queries=NUM_TOKENS)
        decoder = replace(CONFIG.image_decoder, perceiver=perceiver, token_grid=is_grid)
        names = StableDiffusion(replace(CONFIG, image_decoder=decoder)).unet.state_dict()
        assert any(name.endswith("attn2.to_k.positions") for name in names) == is_grid
        assert any(name.endswith("norm2.positions") for name in names) == is_grid


def test_it_is_built_without_memory() -> None:
    """As checkpoints are read."""
    perceiver = replace(CONFIG.image_decoder.perceiver, num_queries=NUM_TOKENS)
    decoder = replace(CONFIG.image_decoder, perceiver=perceiver, token_grid=True)
    with torch.device("meta"):
        built = StableDiffusion(replace(CONFIG, image_decoder=decoder))
    assert all(parameter.is_meta for parameter in built.unet.parameters())

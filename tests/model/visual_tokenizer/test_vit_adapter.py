import dataclasses

import pytest
import torch

from model.config.presets import preset
from model.config.schema import VisionConfig
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer
from model.visual_tokenizer.vit_adapter import VisionAdapter

SMALL = VisionConfig(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_hidden_layers=4,
    image_size=40,
    patch_size=10,
    conv_inplane=4,
    interaction_indexes=((0, 0), (1, 1), (2, 2), (3, 3)),
)


def test_tokens_and_maps_of_any_grid():
    adapter = VisionAdapter(SMALL).eval()
    tokens, maps = adapter(torch.randn(2, 3, 40, 40))
    assert tokens.shape == (2, 17, 16)
    assert [tuple(m.shape) for m in maps] == [(2, 16, side, side) for side in SMALL.map_sizes]
    names = {name for name, _ in adapter.named_parameters()}
    assert "vision_model.adapter_interactions.3.extra_extractors.1.attn.value_proj.bias" in names
    assert not any("interactions.2.extra_extractors" in name for name in names)


def test_images_of_a_batch_do_not_meet():
    adapter = VisionAdapter(SMALL).eval().requires_grad_(False)
    pixels = torch.randn(3, 3, 40, 40)
    tokens, maps = adapter(pixels)
    alone_tokens, alone_maps = adapter(pixels[1:2])
    assert (tokens[1:2] - alone_tokens).abs().max() < 1e-5
    for whole, alone in zip(maps, alone_maps, strict=True):
        assert (whole[1:2] - alone).abs().max() < 1e-5


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="even patch grid, not 3"):
        VisionAdapter(dataclasses.replace(SMALL, image_size=30))


def test_no_images_have_no_features():
    config = preset("tiny")
    features = VisualTokenizer(config)(torch.zeros(0, 3, 96, 96))
    assert features.tokens_NTD.shape == (0, config.num_img_token, config.llm.hidden_size)
    assert [m.shape[-1] for m in features.maps] == list(config.vision.map_sizes)
    assert len(features) == 0

"""The key table, and the position embedding of another grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint import load
from model.checkpoint.convert import adapter
from model.checkpoint.convert.from_official import ConvertOptions, convert
from model.positions import grid_table
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import silent

LAYER = "mm_decoder.layers.3."
ATTENTION = "image_decoder.decoder.vae.encoder.mid_block.attentions.0"


def test_every_official_key_is_ours() -> None:
    for key in golden.state_dict():
        assert adapter.to_ours(key) == key


@pytest.mark.parametrize(
    ("official_key", "ours"),
    [
        (f"{LAYER}self_attn.rotary_emb.inv_freq", None),
        ("image_decoder.perceiver_resampler.blip2qformer.pooler.dense.weight", None),
        (f"{adapter.VISION}post_layernorm.bias", None),
        (f"{ATTENTION}.query.weight", f"{ATTENTION}.to_q.weight"),
        (f"{ATTENTION}.proj_attn.bias", f"{ATTENTION}.to_out.0.bias"),
        (f"{LAYER}self_attn.q_proj.weight", f"{LAYER}self_attn.q_proj.weight"),
        (
            "mm_decoder.layers.0.self_attn.query.weight",
            "mm_decoder.layers.0.self_attn.query.weight",
        ),
    ],
)
def test_exceptions(official_key: str, ours: str | None) -> None:
    assert adapter.to_ours(official_key) == ours


def test_components_hold_their_part_of_the_keys() -> None:
    pairs = {
        f"{LAYER}mlp.up_proj.weight": ("llm", "model.layers.3.mlp.up_proj.weight"),
        f"{adapter.VISION}pre_layrnorm.bias": ("clip", "vision_model.pre_layrnorm.bias"),
        f"{adapter.UNET}conv_in.bias": ("unet", "conv_in.bias"),
        f"{adapter.VAE}quant_conv.bias": ("vae", "quant_conv.bias"),
    }
    for name, (component, key) in pairs.items():
        assert adapter.component_key(name) == (component, key)
        assert adapter.component_name(component, key) == name
    assert adapter.component_key("soi_token") is None
    assert adapter.component_name("clip", "text_model.final_layer_norm.bias") is None


def test_position_embedding_is_resized_as_by_the_official_loader() -> None:
    weight_PD = torch.randn(1 + 16 * 16, 12, generator=torch.Generator().manual_seed(0))
    assert adapter.resize_position_embedding(weight_PD, 16) is weight_PD
    resized_PD = adapter.resize_position_embedding(weight_PD, 24)
    assert torch.equal(resized_PD[0], weight_PD[0])
    cells_1DGG = weight_PD[1:].T.reshape(1, 12, 16, 16)
    wanted_1DGG = torch.nn.functional.interpolate(cells_1DGG, (24, 24), mode="bicubic")
    assert torch.equal(resized_PD[1:].T.reshape(1, 12, 24, 24), wanted_1DGG)
    assert adapter.resize_position_embedding(weight_PD.half(), 8).dtype == torch.float16


def test_converting_to_another_image_size(tmp_path: Path) -> None:
    state, config = golden.state_dict(), golden.config()
    root = official.write_layout(tmp_path / "in", state, config, num_shards=1)
    official.write_settings(root / "mm_inference.yaml", config)
    side, grid = config.vision.image_size // 2, config.vision.grid_size // 2
    made = convert(root, tmp_path / "out", ConvertOptions(image_size=side), silent)
    halves = tuple(shape // 2 for shape in config.spatial_shapes)
    assert (made.vision.image_size, made.spatial_shapes) == (side, halves)
    assert made.base_spatial_shape == config.base_spatial_shape
    tensors = dict(load.iter_tensors(tmp_path / "out"))
    for name in (adapter.POSITION_EMBEDDING, "visual_tokenizer.pos_embed"):
        assert torch.equal(tensors[name], adapter.resize_position_embedding(state[name], grid))
    assert tensors[adapter.POSITION_IDS].tolist() == [list(range(grid * grid + 1))]
    model = load.load_model(tmp_path / "out", components=("visual_tokenizer",))
    with torch.no_grad():
        visual = model.visual_tokenizer(torch.rand(1, 3, side, side))
    assert visual.tokens_NTD.shape == (1, config.num_img_token, config.llm.hidden_size)


def test_sine_table_is_the_recorded_one() -> None:
    recorded, grid = (
        golden.state_dict()["visual_tokenizer.pos_embed"],
        golden.config().vision.grid_size,
    )
    assert torch.equal(grid_table(recorded.shape[1], grid, cls_token=True), recorded)

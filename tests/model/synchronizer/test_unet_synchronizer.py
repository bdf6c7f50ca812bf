import json

import pytest
import torch

from model.config.schema import SynchronizerConfig
from model.synchronizer.unet_synchronizer import SynchronizerBlock, flatten_maps
from tests.model import golden

SIZES = json.loads((golden.DIRECTORY / "mmfs.json").read_text())["block"]["ctor"]


def build() -> SynchronizerBlock:
    state = golden.part(golden.tensors("mmfs_block"), "block/state/mmfs.")
    offsets, slots = len(state["sampling_offsets.bias"]), len(state["attention_weights.bias"])
    return SynchronizerBlock(
        SIZES["query_dim"],
        SIZES["feat_dim"],
        SIZES["grid_size"],
        SIZES["spatial_shapes"],
        SIZES["base_spatial_shape"],
        SynchronizerConfig(
            n_heads=slots // SIZES["n_levels"] - offsets // 2,
            n_points=SIZES["n_points"],
            attn_dim=SIZES["attn_dim"],
            max_num_image_per_seq=len(state["query_relpos.weight"]),
        ),
    )


@pytest.fixture(scope="module")
def block() -> SynchronizerBlock:
    block = build()
    block.load_state_dict(golden.part(golden.tensors("mmfs_block"), "block/state/"))
    return block.requires_grad_(False)


def test_matches_the_official_numbers(block):
    recorded = golden.part(golden.tensors("mmfs_block"), "block/")
    ours = block(recorded["in/sample"], recorded["in/ms_feat"], recorded["in/ms_feat_mask"])
    golden.assert_close("mmfs_block", ours, recorded["out"], 1e-5)


def test_its_position_table_is_the_official_one(block):
    assert (build().pos_embed - block.pos_embed).abs().max() < 1e-6


def test_guidance_halves_read_the_same_values(block):
    recorded = golden.part(golden.tensors("mmfs_block"), "block/in/")
    values = block.project(recorded["ms_feat"])
    once = block.attend(recorded["sample"], values, recorded["ms_feat_mask"])
    halves = torch.cat((recorded["sample"], recorded["sample"].flip(0)))
    twice = block.attend(halves, values, recorded["ms_feat_mask"])
    golden.assert_close("first half", twice[: len(once)], once, 1e-6)


def test_flattened_maps_keep_their_order():
    maps = [torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[[9.0]]]])]
    assert flatten_maps(maps).flatten().tolist() == [0, 1, 2, 3, 9]

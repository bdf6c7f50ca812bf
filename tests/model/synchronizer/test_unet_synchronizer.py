import json

import pytest
import torch

from model.config.schema import SynchronizerConfig
from model.synchronizer.unet_synchronizer import SynchronizerBlock, flatten_maps
from tests.model import golden


@pytest.fixture(scope="module")
def block():
    sizes = json.loads((golden.DIRECTORY / "mmfs.json").read_text())["block"]["ctor"]
    block = SynchronizerBlock(
        sizes["query_dim"],
        sizes["feat_dim"],
        sizes["grid_size"],
        sizes["spatial_shapes"],
        sizes["base_spatial_shape"],
        SynchronizerConfig(
            n_points=sizes["n_points"], attn_dim=sizes["attn_dim"], max_num_image_per_seq=10
        ),
    )
    block.load_state_dict(golden.part(golden.tensors("mmfs_block"), "block/state/"))
    return block.requires_grad_(False)


def test_matches_the_official_numbers(block):
    recorded = golden.part(golden.tensors("mmfs_block"), "block/")
    ours = block(recorded["in/sample"], recorded["in/ms_feat"], recorded["in/ms_feat_mask"])
    golden.assert_close("mmfs_block", ours, recorded["out"], 1e-5)


def test_its_position_table_is_the_official_one(block):
    fresh = SynchronizerBlock(32, 24, 16, [16, 8, 4, 2], 8, SynchronizerConfig(attn_dim=64))
    assert (fresh.pos_embed - block.pos_embed).abs().max() < 1e-6


def test_guidance_halves_read_the_same_values(block):
    recorded = golden.part(golden.tensors("mmfs_block"), "block/in/")
    values = block.project(recorded["ms_feat"])
    once = block.attend(recorded["sample"], values, recorded["ms_feat_mask"])
    halves = torch.cat((recorded["sample"], recorded["sample"].flip(0)))
    twice = block.attend(halves, values, recorded["ms_feat_mask"])
    golden.assert_close("first half", twice[:3], once, 1e-6)


def test_flattened_maps_keep_their_order():
    maps = [torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[[9.0]]]])]
    assert flatten_maps(maps).flatten().tolist() == [0, 1, 2, 3, 9]

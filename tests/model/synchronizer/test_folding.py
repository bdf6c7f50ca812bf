"""What folding keeps; that every kernel gives the plain module's numbers is in kernels/."""

from __future__ import annotations

import pytest
import torch

from model.config.presets import preset
from model.config.schema import SynchronizerConfig
from model.synchronizer.folding import FoldedBlock, FoldedQuery, FoldedSynchronizer, fold_layer
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.unet_synchronizer import SynchronizerBlock, UNetSynchronizer
from tests.model.synchronizer.kernels import paged

GEOMETRY = paged.GEOMETRIES["padding in the last token"]


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)


@pytest.fixture
def block() -> FoldedBlock:
    config = SynchronizerConfig(n_heads=2, n_points=3, attn_dim=16)
    plain = SynchronizerBlock(16, 20, 4, (4, 2), 4, config)
    randomise(plain)
    return FoldedBlock(plain, GridSampling())


@torch.inference_mode()
def test_a_folded_query_predicts_what_the_plain_one_does_for_each_image() -> None:
    made = paged.module(GEOMETRY)
    folded = FoldedQuery.of(made.state_dict(), GEOMETRY)
    query_BLD, visible_BLI = torch.randn(1, 3, 32), torch.tensor([[[1, 1], [0, 1], [0, 0]]]).bool()
    offsets_BILHP2, logits_BILHSP = made._predict(query_BLD, visible_BLI)
    expected_ILX = torch.cat((offsets_BILHP2[0].flatten(2), logits_BILHSP[0].flatten(2)), -1)
    own_LX = query_BLD[0] @ folded.weight_XD.T + folded.bias_X
    # Relative positions, counted from the latest visible image; 0 is a hidden one.
    relative_IL = torch.tensor([[2, 0, 0], [1, 1, 0]])
    torch.testing.assert_close(own_LX + folded.relative_RX[relative_IL], expected_ILX)


def test_a_closed_gate_lets_nothing_through() -> None:
    weights = paged.official_names(paged.module(GEOMETRY), GEOMETRY)
    closed = fold_layer(weights | {"gate": torch.zeros(1)}, GEOMETRY)
    assert not closed.output_DV.any() and not closed.output_bias_D.any()


def test_layers_are_folded_in_float32_whatever_the_checkpoint_has() -> None:
    weights = paged.official_names(paged.module(GEOMETRY), GEOMETRY)
    halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
    folded = fold_layer(halves, GEOMETRY)
    expected = fold_layer({name: tensor.float() for name, tensor in halves.items()}, GEOMETRY)
    for name, tensor in vars(folded).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, getattr(expected, name)), name


@torch.inference_mode()
def test_guidance_halves_read_the_same_values(block: FoldedBlock) -> None:
    values = block.project(torch.randn(2, 1, 20, 20))
    visible_B1, sample_NCHW = torch.tensor([[1.0], [0.0]]), torch.randn(4, 16, 2, 3)
    both = block.attend(sample_NCHW, values, visible_B1)
    halves = [block.attend(half, values, visible_B1) for half in sample_NCHW.chunk(2)]
    torch.testing.assert_close(both, torch.cat(halves))


@torch.inference_mode()
@pytest.mark.parametrize("attn_dim", [16, 64])  # Heads narrower than the skip, and wider.
def test_a_skip_that_sees_no_image_gets_the_same_everywhere(attn_dim: int) -> None:
    config = SynchronizerConfig(n_heads=2, n_points=3, attn_dim=attn_dim)
    plain = SynchronizerBlock(16, 20, 4, (4, 2), 4, config)
    randomise(plain)
    features_B1VD, sample_NCHW = torch.randn(1, 1, 20, 20), torch.randn(1, 16, 2, 3)
    for block in (plain, FoldedBlock(plain, GridSampling())):
        read_NCHW = block.attend(sample_NCHW, block.project(features_B1VD), torch.zeros(1, 1))
        nothing_NCHW = block.nothing_C[:, None, None].expand_as(sample_NCHW)
        torch.testing.assert_close(read_NCHW, nothing_NCHW, atol=1e-4, rtol=1e-4)


def test_tables_are_computed_once_for_each_grid(block: FoldedBlock) -> None:
    positions_LC, reference_L2 = block.tables(2, 3)
    assert positions_LC.shape == (6, 16) and reference_L2.shape == (6, 2)
    assert reference_L2[0].tolist() == pytest.approx([1 / 6, 1 / 4])  # x comes first
    assert block.tables(2, 3)[0] is positions_LC
    assert block.tables(3, 2)[1][0].tolist() == pytest.approx([1 / 4, 1 / 6])


@torch.inference_mode()
def test_blocks_keep_their_order_and_numbers() -> None:
    plain = UNetSynchronizer(preset("tiny"))
    randomise(plain)
    folded = FoldedSynchronizer(plain, GridSampling())
    num_positions = sum(side * side for side in preset("tiny").vision.map_sizes)
    features_B1VD = torch.randn(1, 1, num_positions, preset("tiny").image_embed_dim)
    values, plain_values = folded.project(features_B1VD), plain.project(features_B1VD)
    assert len(folded.blocks) == len(values) == len(plain.blocks)
    visible_B1 = torch.ones(1, 1)
    for index in (0, len(values) - 1):
        sample_NCHW = torch.randn(1, len(folded.blocks[index].out_C), 2, 2)
        ours = folded.blocks[index].attend(sample_NCHW, values[index], visible_B1)
        expected = plain.blocks[index].attend(sample_NCHW, plain_values[index], visible_B1)
        scale = expected.abs().max()
        assert scale > 0.1 and (ours - expected).abs().max() < 1e-4 * scale

import pytest
import torch

from model.positions import grid_table, resize_grid, sequence_table
from tests.model import golden


def test_tables_are_the_official_ones():
    state, config = golden.state_dict(), golden.config()
    ours = grid_table(config.vision.hidden_size, config.vision.grid_size, cls_token=True)
    golden.assert_close("tokenizer", ours, state["visual_tokenizer.pos_embed"], 1e-6)
    prefix = "image_decoder.decoder.mmfs_module.mmfs_down_blocks"
    ours = grid_table(state[f"{prefix}.0.pos_embed"].shape[1], config.image_decoder.latent_size)
    golden.assert_close("U-Net", ours, state[f"{prefix}.0.pos_embed"], 1e-6)


def test_rows_fill_the_first_half_of_the_channels():
    table = grid_table(8, 3).view(3, 3, 8)
    assert torch.equal(table[1, 0, :4], table[1, 2, :4])
    assert torch.equal(table[0, 2, 4:], table[1, 2, 4:])
    assert torch.equal(table[1, 0, :4], table[0, 1, 4:])
    assert torch.equal(sequence_table(4, 3), table[:, 0, :4])


def test_a_table_has_no_numbers_on_the_meta_device():
    with torch.device("meta"):
        assert grid_table(8, 3, cls_token=True).shape == (10, 8)


@pytest.mark.parametrize("shape", [(6, 6), (3, 5)])
def test_resizing_keeps_constants_and_the_layout(shape):
    columns = torch.arange(4.0).repeat(4).unsqueeze(1)
    constant = torch.ones(16, 1)
    resized = resize_grid(torch.cat((columns, constant), 1), *shape).view(*shape, 2)
    assert torch.allclose(resized[..., 1], torch.ones(shape))
    assert torch.allclose(resized[0, :, 0], resized[-1, :, 0], atol=1e-6)
    assert (resized[0].diff(dim=0)[:, 0] > -0.1).all()
    assert resize_grid(columns, 4, 4) is columns

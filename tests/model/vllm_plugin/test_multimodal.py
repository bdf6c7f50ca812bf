from __future__ import annotations

import torch

from model.config.presets import preset
from model.visual_tokenizer.visual_tokenizer import VisualFeatures
from model.vllm_plugin.multimodal import image_rows

CONFIG = preset("tiny")


def test_a_row_is_an_embedding_and_its_share_of_normalised_vectors() -> None:
    torch.manual_seed(0)
    width, channels = CONFIG.llm.hidden_size, CONFIG.image_embed_dim
    maps = [torch.randn(2, channels, side, side) * 9 for side in CONFIG.spatial_shapes]
    tokens_NTD = torch.randn(2, CONFIG.num_img_token, width)
    rows_NTX = image_rows(VisualFeatures(tokens_NTD, tuple(reversed(maps)), tokens_NTD), CONFIG)
    assert torch.equal(rows_NTX[..., :width], tokens_NTD)
    vectors_NVC = rows_NTX[..., width:].reshape(2, -1, channels)
    count = CONFIG.num_image_vectors
    assert (vectors_NVC[:, count:] == 0).all()
    norms_NV = vectors_NVC[:, :count].square().mean(-1).sqrt()
    torch.testing.assert_close(norms_NV, torch.ones_like(norms_NV), atol=1e-4, rtol=0)
    # Maps in the order of `spatial_shapes`, each row by row.
    second = maps[0][1, :, 0, 1]
    expected_C = second / second.square().mean().sqrt()
    torch.testing.assert_close(vectors_NVC[1, 1], expected_C, atol=1e-4, rtol=0)

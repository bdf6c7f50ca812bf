from __future__ import annotations

import torch

from model.config.presets import preset
from model.synchronizer.geometry import Geometry, Sight


def test_the_published_text_model() -> None:
    geometry = Geometry.of_text(preset("13b"))
    assert geometry.vectors_per_token == 21 and geometry.token_width == 21 * 1024
    assert geometry.level_starts[0] == 0
    assert geometry.image_tokens * geometry.vectors_per_token >= sum(s * s for s in geometry.sides)


def test_dense_maps_are_one_slot_an_image() -> None:
    geometry = Geometry.of_maps(2, 3, (4, 2), 4, 8)
    assert geometry.level_starts == (0, 16)
    assert (geometry.vectors_per_token, geometry.image_tokens, geometry.num_tables) == (20, 1, 2)
    assert geometry.token_width == 2 * 20 * 8
    assert geometry.num_predicted == 2 * 3 * 2 + 2 * 2 * 3


def test_rows_of_a_batch_look_at_their_images() -> None:
    reference_P2 = torch.rand(3, 2)
    sight = Sight.of_maps(torch.tensor([1.0, 0.0]), 4, reference_P2)
    rows_NL = sight.request_T.view(4, 3)
    assert rows_NL.tolist() == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]
    assert torch.equal(sight.count_T, 1 - sight.request_T)
    assert sight.block_table_RW.tolist() == [[0], [1]] and sight.block_size == 1

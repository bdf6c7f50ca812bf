"""Words in hidden states."""

from __future__ import annotations

import torch

from model.processor import Processor
from model.training.targets.words import image_numbers


def test_images_are_numbered_in_the_order_of_their_beginnings(processor: Processor) -> None:
    special = processor.special
    image = [special.soi_token_id, special.image_token_id, special.image_token_id]
    ids_1L = torch.tensor([[special.bos_token_id, *image, 9, *image, *image, 9]])
    assert image_numbers(ids_1L, special)[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]

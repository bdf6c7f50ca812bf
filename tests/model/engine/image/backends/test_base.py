"""Padding of a batch to a bucket."""

import torch

from model.engine.image.backends.base import pad


def test_the_last_row_is_repeated() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert pad(rows, 4).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert pad(torch.tensor([5, 7]), 3).tolist() == [5, 7, 7]
    assert pad(rows, 2) is rows

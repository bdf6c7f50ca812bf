"""Conditions of several images become those of a batch."""

from __future__ import annotations

import torch

from model.image_decoder.unet.conditions import Conditions


def conditions(number: int, num_maps: int = 1) -> Conditions:
    """Of one image, all tensors filled with a number."""
    return Conditions(
        keys=tuple(torch.full((1, 2, 5, 4), float(number)) for _ in range(3)),
        values=tuple(torch.full((1, 2, 5, 4), -float(number)) for _ in range(3)),
        canvas=(torch.full((1, 6, 2, 2), float(number)),),
        maps=tuple(torch.full((1, 1, 7, 2, 3), float(number)) for _ in range(num_maps)),
        visible=torch.ones(1, 1),
    )


def test_images_are_joined_in_order() -> None:
    joined = Conditions.stack([conditions(1), conditions(2)])
    assert [x[:, 0, 0, 0].tolist() for x in joined.keys] == [[1, 2]] * 3
    assert [x[:, 0, 0, 0].tolist() for x in joined.values] == [[-1, -2]] * 3
    assert joined.canvas[0][:, 0, 0, 0].tolist() == [1, 2]
    assert joined.maps[0][:, 0, 0, 0, 0].tolist() == [1, 2]
    assert joined.visible.shape == (2, 1)


def test_the_negative_half_comes_first_and_has_no_maps() -> None:
    joined = Conditions.stack([conditions(1), conditions(2)], conditions(9, num_maps=0))
    assert joined.keys[0][:, 0, 0, 0].tolist() == [9, 9, 1, 2]
    assert joined.values[0][:, 0, 0, 0].tolist() == [-9, -9, -1, -2]
    assert joined.canvas[0][:, 0, 0, 0].tolist() == [9, 9, 1, 2]
    assert joined.maps[0][:, 0, 0, 0, 0].tolist() == [1, 2]


def test_tensors_in_one_row_and_back() -> None:
    given = conditions(3, num_maps=2)
    assert len(given.tensors) == 9
    again = Conditions.of(given.tensors, conditions(1), given.visible)
    assert [len(x) for x in (again.keys, again.values, again.canvas, again.maps)] == [3, 3, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(again.tensors, given.tensors, strict=True))


def test_memory() -> None:
    assert conditions(1).num_bytes == 4 * (6 * 2 * 5 * 4 + 6 * 2 * 2 + 7 * 2 * 3 + 1)

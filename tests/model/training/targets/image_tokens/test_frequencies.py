"""What a cell looks like, in few numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.training.targets.image_tokens.frequencies import (
    NUM_COLOURS,
    NUM_LOOKS,
    coarse_colours_of,
    colours_of,
    looks_of,
)

SIDE = 16


def _open(numbers_KP: torch.Tensor, wanted_KX: torch.Tensor) -> float:
    """The share of the variance of something that numbers leave open, read linearly."""
    given_KP = torch.cat((numbers_KP, torch.ones(len(numbers_KP), 1)), 1).double()
    ridge_PP = 1e-6 * torch.eye(given_KP.shape[1], dtype=torch.float64)
    readout_PX = torch.linalg.solve(
        given_KP.T @ given_KP + ridge_PP, given_KP.T @ wanted_KX.double()
    )
    residual_KX = wanted_KX - given_KP @ readout_PX
    return float(residual_KX.square().mean() / wanted_KX.var(0).mean())


def test_they_tell_a_drawing_better_than_as_many_means() -> None:
    torch.manual_seed(0)
    coarse_K1GG = torch.rand(400, 1, 6, 6)
    pixels_K3CC = F.interpolate(coarse_K1GG, (SIDE, SIDE), mode="bicubic").expand(-1, 3, -1, -1)
    colours_KP = colours_of(pixels_K3CC.permute(0, 2, 3, 1))
    assert colours_KP.shape == (400, NUM_COLOURS)
    means_KP = F.avg_pool2d(pixels_K3CC, 4).flatten(1)
    assert _open(colours_KP, pixels_K3CC.flatten(1)) < 0.3 * _open(means_KP, pixels_K3CC.flatten(1))


def test_coarse_colours_tell_the_means_of_halves_and_little_more() -> None:
    torch.manual_seed(2)
    pixels_KCC3 = torch.rand(300, SIDE, SIDE, 3) * torch.rand(300, 1, 1, 3)
    coarse_KP = coarse_colours_of(pixels_KCC3)
    assert coarse_KP.shape[1] < NUM_COLOURS / 4
    flat_KCC3 = pixels_KCC3.mean((1, 2), keepdim=True).expand_as(pixels_KCC3)
    assert _open(coarse_KP, flat_KCC3.flatten(1)) < 1e-3
    left_K3 = pixels_KCC3[:, :, : SIDE // 2].mean((1, 2))
    assert _open(coarse_KP, left_K3) < 0.1 < 0.5 < _open(coarse_KP, pixels_KCC3.flatten(1))


def test_a_flat_cell_has_one_number_for_each_channel() -> None:
    grey_1CC4 = torch.full((1, SIDE, SIDE, 4), 0.5)
    looks_P = looks_of(grey_1CC4)[0]
    assert len(looks_P) == NUM_LOOKS
    # Grey has no chroma; its luma and its opacity do not turn.
    assert (looks_P.abs() > 1e-3).nonzero().flatten().tolist() == [0, NUM_COLOURS]


def test_looks_are_linear() -> None:
    torch.manual_seed(1)
    first, second = torch.rand(2, 5, SIDE, SIDE, 4)
    torch.testing.assert_close(looks_of(first) + looks_of(second), looks_of(first + second))

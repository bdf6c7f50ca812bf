"""The convolutional prior: map sizes, and norms in float32."""

import torch

from model.visual_tokenizer.spatial_prior import ChannelNorm, SpatialPrior


def test_a_fine_map_and_three_maps_as_tokens():
    prior = SpatialPrior(inner=4, width=8).eval().requires_grad_(False)
    levels = torch.arange(3.0).view(3, 1).expand(3, 8)
    finest, tokens = prior(torch.randn(2, 3, 64, 64), levels)
    assert finest.shape == (2, 8, 16, 16)
    assert tokens.shape == (2, 8 * 8 + 4 * 4 + 2 * 2, 8)
    _, without = prior(torch.zeros(1, 3, 64, 64), torch.zeros(3, 8))
    _, with_levels = prior(torch.zeros(1, 3, 64, 64), levels)
    added = (with_levels - without)[0, :, 0]
    expected = torch.arange(3.0).repeat_interleave(torch.tensor([8 * 8, 4 * 4, 2 * 2]))
    assert torch.allclose(added, expected, atol=1e-6)


def test_channels_are_normalised_in_float32():
    norm = ChannelNorm(6, eps=1e-6)
    x = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0)) * 100
    out = norm(x)
    assert torch.allclose(out.mean(1), torch.zeros(2, 3, 5), atol=1e-5)
    assert torch.allclose(out.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - out).abs().max() < 0.05

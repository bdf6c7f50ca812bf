import math

import pytest
import torch

from model.synchronizer.deformable_attention import (
    DeformableAttention,
    deformable_attention,
    grid_centers,
    sample_by_gather,
    sample_by_grid,
)
from tests.model import golden

FORMULATIONS = [sample_by_gather, sample_by_grid]
SHAPES = [(5, 7), (3, 2), (1, 1)]


def random_inputs(dtype=torch.float64, heads=3, points=4, width=5):
    generator = torch.Generator().manual_seed(0)
    num = sum(math.prod(shape) for shape in SHAPES)
    values = torch.randn(2, num, heads, width, generator=generator, dtype=dtype)
    places = torch.rand(2, 6, heads, len(SHAPES), points, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(2, 6, heads, len(SHAPES), points, generator=generator, dtype=dtype)
    return values, places.to(torch.float32), weights


def slowly(values, places, weights):
    """The definition, position by position: the sum of hat functions around each place."""
    out = torch.zeros(*places.shape[:3], values.shape[-1], dtype=torch.float64)
    start = 0
    for level, (height, width) in enumerate(SHAPES):
        x = places[..., level, :, 0].double() * width - 0.5
        y = places[..., level, :, 1].double() * height - 0.5
        for row in range(height):
            for column in range(width):
                near = (1 - (x - column).abs()).clamp(min=0) * (1 - (y - row).abs()).clamp(min=0)
                share = (near * weights[..., level, :].double()).sum(-1, keepdim=True)
                out += share * values[:, None, start + row * width + column].double()
        start += height * width
    return out.flatten(2)


@pytest.mark.parametrize("sample", FORMULATIONS)
def test_matches_the_official_numbers(sample):
    recorded = golden.part(golden.tensors("mmfs_core_op"), "core/")
    shapes = [tuple(shape) for shape in recorded["spatial_shapes"].tolist()]
    ours = sample(
        recorded["value"], shapes, recorded["sampling_locations"], recorded["attention_weights"]
    )
    golden.assert_close("mmfs_core_op", ours, recorded["output"], 1e-5)


@pytest.mark.parametrize("sample", FORMULATIONS)
def test_matches_the_definition(sample):
    values, places, weights = random_inputs(torch.float32)
    golden.assert_close(
        sample.__name__,
        sample(values, SHAPES, places, weights),
        slowly(values, places, weights),
        1e-5,
    )


@pytest.mark.parametrize("sample", FORMULATIONS)
@pytest.mark.parametrize("place", [-1e9, -3.0, 1.7, 1e9])
def test_nothing_lies_outside_of_a_map(sample, place):
    values, places, weights = random_inputs(torch.float32)
    out = sample(values, SHAPES, torch.full_like(places, place), weights)
    assert torch.equal(out, torch.zeros_like(out))


def test_gradients_of_both_formulations_agree():
    grads = []
    for sample in FORMULATIONS:
        inputs = [tensor.float().requires_grad_() for tensor in random_inputs()]
        out = sample(inputs[0], SHAPES, inputs[1], inputs[2])
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        grads.append([tensor.grad for tensor in inputs])
    for name, ours, theirs in zip(("values", "places", "weights"), *grads, strict=True):
        golden.assert_close(f"gradient of {name}", ours, theirs, 2e-5)


def test_compiled_and_exported_modules_use_the_grid_operator():
    values, places, weights = random_inputs(torch.float32)

    class Module(torch.nn.Module):
        def forward(self, values, places, weights):
            return deformable_attention(values, SHAPES, places, weights)

    program = torch.export.export(Module(), (values, places, weights))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.grid_sampler.default" in targets
    assert not any("embedding_bag" in target for target in targets)
    out = program.module()(values, places, weights)
    golden.assert_close(
        "exported", out, deformable_attention(values, SHAPES, places, weights), 1e-5
    )


@pytest.mark.parametrize("sample", FORMULATIONS)
def test_low_precision_values_keep_float32_places(sample):
    # On a 64-wide map bfloat16 places would be off by a quarter of a cell.
    side = 64
    ramp = torch.arange(side, dtype=torch.float32).expand(side, side).reshape(1, -1, 1, 1)
    x = torch.linspace(0.1, 0.9, 50)
    places = torch.stack((x, torch.full_like(x, 0.5)), -1).view(1, 50, 1, 1, 1, 2)
    out = sample(ramp.bfloat16(), [(side, side)], places, torch.ones(1, 50, 1, 1, 1))
    error = (out.float().flatten() - (x * side - 0.5)).abs().max().item()
    assert out.dtype == torch.bfloat16
    assert error <= 0.3  # bfloat16 itself holds 56.5 only to 0.25.


def test_centers_run_over_the_rows():
    centers = grid_centers([(2, 4), (1, 1)])
    assert centers.shape == (1, 9, 2)
    assert centers[0, :4, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert centers[0, :8, 1].tolist() == [0.25] * 4 + [0.75] * 4
    assert centers[0, 8].tolist() == [0.5, 0.5]


def test_a_new_module_samples_around_its_reference_points():
    module = DeformableAttention(16, [(4, 4), (2, 2)], n_heads=4, n_points=3, ratio=0.5)
    offsets = module.sampling_offsets.bias.detach().view(4, 2, 3, 2)
    assert offsets.abs().amax(-1)[0, 0].tolist() == [1, 2, 3]
    assert module.value_proj.out_features == 8
    out = module(torch.randn(2, 5, 16), torch.full((1, 5, 2), 0.5), torch.randn(2, 20, 16))
    assert out.shape == (2, 5, 16)


def test_heads_must_share_the_channels():
    with pytest.raises(ValueError, match="4 heads can't share 6 channels"):
        DeformableAttention(12, [(4, 4)], n_heads=4, n_points=3, ratio=0.5)

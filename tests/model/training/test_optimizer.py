"""Matrices and filters of convolutions take Muon's steps, everything else AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.training.optimizer import Optimizer, OptimizerName
from model.training.parameters import ParameterGroup

_CPU = torch.device("cpu")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 24, 3)
        self.linear = nn.Linear(24, 20)
        self.narrow = nn.Linear(20, 2)


def _trained(name: OptimizerName, rate_factor: float = 1.0) -> tuple[_Net, _Net, Optimizer]:
    """A network before and after a step, and the optimizer."""
    torch.manual_seed(0)
    net, before = _Net(), _Net()
    before.load_state_dict(net.state_dict())
    groups = [ParameterGroup(tuple(net.parameters()), rate_factor)]
    optimizer = Optimizer(groups, 0.0, name, _CPU)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(1e-3)
    return before, net, optimizer


def test_a_step_of_a_matrix_is_as_large_in_all_directions() -> None:
    before, after, optimizer = _trained("muon")
    for layer in ("convolution", "linear"):
        old, new = (getattr(net, layer).weight.detach().flatten(1) for net in (before, after))
        values = torch.linalg.svdvals(new - old)
        assert values.max() < 2 * values.min()
        assert set(optimizer.state_of(getattr(after, layer).weight)) == {"momentum_buffer"}
    for parameter in (after.convolution.bias, after.narrow.weight):
        assert "exp_avg_sq" in optimizer.state_of(parameter)
    assert not torch.equal(before.narrow.weight, after.narrow.weight)


def test_adamw_alone_takes_everything() -> None:
    _, after, optimizer = _trained("adamw")
    assert all("exp_avg" in optimizer.state_of(parameter) for parameter in after.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_group_has_its_own_rate(name: OptimizerName) -> None:
    before, whole, _ = _trained(name)
    _, half, _ = _trained(name, 0.5)
    for old, new, slow in zip(
        before.parameters(), whole.parameters(), half.parameters(), strict=True
    ):
        torch.testing.assert_close(slow - old, (new - old) / 2, rtol=1e-3, atol=1e-7)

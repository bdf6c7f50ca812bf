"""The stand-in refuses what it must, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.model.device.accelerator import ACCELERATOR, HostWaits, no_host_copies

OFFENCES: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).any()),
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "copy to the host": lambda x: torch.empty(4).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "boolean mask": lambda x: x[x > 0],
    "blocking upload": lambda x: torch.ones(4).to(ACCELERATOR),
    "new tensor of Python numbers": lambda x: torch.tensor([1.0, 2.0], device=ACCELERATOR),
    "copy from pageable memory": lambda x: x.copy_(torch.ones(4)),
}


@pytest.mark.parametrize("name", OFFENCES)
def test_offences_are_refused(name: str) -> None:
    x = torch.empty(4, device=ACCELERATOR)
    # Some fail in the meta device itself, which has no values; a real one would wait.
    refusals = (HostWaits, NotImplementedError, RuntimeError, TypeError)
    with no_host_copies(), pytest.raises(refusals):
        OFFENCES[name](x)


def test_arithmetic_and_asynchronous_uploads_pass() -> None:
    x = torch.empty(4, device=ACCELERATOR)
    with no_host_copies():
        y = torch.ones(4).to(ACCELERATOR, non_blocking=True)
        (x * 2 + y).to(torch.bfloat16).softmax(-1)
        torch.zeros(3, device=ACCELERATOR)
        torch.ones(3).sum().item()

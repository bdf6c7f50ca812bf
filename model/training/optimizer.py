"""What turns gradients into steps: AdamW, or Muon for matrices and AdamW for the rest.

Muon (Jordan et al., 2024) makes every step of a matrix as large in all directions. From nothing on
a CPU it needs about a third of the steps. Convolutions count as matrices of their filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.training.parameters import ParameterGroup

OptimizerName = Literal["adamw", "muon"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "muon")

_BETAS = (0.9, 0.98)
_MOMENTUM = 0.95
_MUON_RATE = 2.0  # Relative to AdamW's, whose size of steps it is made to match.
_LEAST_SIDE = 8  # Narrower matrices have few directions; low-rank factors have enough.


class Optimizer:
    """One optimizer over some groups of parameters."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        weight_decay: float,
        name: OptimizerName,
        device: torch.device,
    ) -> None:
        """Parameters must be on their device, and stay where they are in its memory."""
        self._views: dict[nn.Parameter, nn.Parameter] = {}
        plain: list[dict[str, Any]] = []
        matrices: list[dict[str, Any]] = []
        for group in groups:
            decay = weight_decay if group.weight_decay is None else group.weight_decay
            options = {"weight_decay": decay, "factor": group.rate_factor}
            views = [self._view(p) for p in group.parameters if name == "muon" and _is_matrix(p)]
            others = [p for p in group.parameters if p not in self._views]
            plain.append({**options, "params": others})
            matrices.append({**options, "params": views, "factor": _MUON_RATE * group.rate_factor})
        fused = device.type == "cuda"
        self._adam = torch.optim.AdamW([g for g in plain if g["params"]], betas=_BETAS, fused=fused)
        matrices = [group for group in matrices if group["params"]]
        self._muon = (
            torch.optim.Muon(matrices, momentum=_MOMENTUM, adjust_lr_fn="match_rms_adamw")
            if matrices
            else None
        )

    def _view(self, parameter: nn.Parameter) -> nn.Parameter:
        """The parameter as a matrix in the same memory."""
        self._views[parameter] = view = nn.Parameter(parameter.data.flatten(1))
        return view

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients."""
        for optimizer in filter(None, (self._adam, self._muon)):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
        for parameter, view in self._views.items():
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        self._adam.step()
        if self._muon is not None:
            self._muon.step()

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter, to be read and updated; empty before the first step."""
        view = self._views.get(parameter)
        if view is None or self._muon is None:
            state: dict[str, Tensor] = self._adam.state[parameter]
        else:
            state = self._muon.state[view]
        return state


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim in (2, 4) and min(parameter.flatten(1).shape) >= _LEAST_SIDE

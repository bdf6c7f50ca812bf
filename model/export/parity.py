"""Compares exported graphs with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.export.graphs import Graph

ABSOLUTE_FLOAT32 = 1e-3
RELATIVE_HALF = 2e-2
Runner = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


class ParityError(ArithmeticError):
    """A graph's outputs differ too much from PyTorch's."""


@dataclass(frozen=True)
class Parity:
    """How far a graph's outputs are from PyTorch's.

    Attributes:
        name: of the graph.
        absolute: largest difference.
        relative: norm of the differences over the norm of the outputs, the worst output's.
        half: whether the graph computes in 16 bits.
    """

    name: str
    absolute: float
    relative: float
    half: bool

    @property
    def accepted(self) -> bool:
        """Whether the absolute error (float32) or the relative error (16 bits) is small enough."""
        if self.half:
            return self.relative <= RELATIVE_HALF
        return self.absolute <= ABSOLUTE_FLOAT32

    def check(self) -> None:
        """Raise unless accepted.

        Raises:
            ParityError: naming the graph.
        """
        if not self.accepted:
            raise ParityError(
                f"{self.name}: absolute error {self.absolute:.2e}, relative {self.relative:.2e}"
            )


@torch.no_grad()
def compare(graph: Graph, run: Runner, reference: Sequence[Tensor] | None = None) -> Parity:
    """Run a graph on its example inputs and compare with PyTorch.

    Args:
        graph: what was exported.
        run: evaluates the exported form.
        reference: outputs to compare with; by default those of the graph's module.
    """
    expected = reference if reference is not None else evaluate(graph)
    absolute = relative = 0.0
    for ours, theirs in zip(run(graph.inputs), expected, strict=True):
        difference = ours.double().cpu() - theirs.double().cpu()
        absolute = max(absolute, _finite(difference.abs().max()))
        relative = max(relative, _finite(difference.norm() / theirs.double().norm().clamp(1e-12)))
    dtypes = {x.dtype for x in graph.inputs.values()}
    return Parity(graph.key, absolute, relative, bool(dtypes & {torch.float16, torch.bfloat16}))


@torch.no_grad()
def evaluate(graph: Graph) -> tuple[Tensor, ...]:
    """PyTorch's outputs for the example inputs."""
    outputs = graph.module(*graph.inputs.values())
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _finite(value: Tensor) -> float:
    """An error as a number; NaN counts as infinite."""
    return float(torch.nan_to_num(value, nan=float("inf")))


def onnxruntime_runner(path: Path, output_names: Sequence[str]) -> Runner:
    """Evaluate an ONNX file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    accepted = {value.name for value in session.get_inputs()}

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in inputs.items() if name in accepted}
        return [torch.from_numpy(x) for x in session.run(list(output_names), feed)]

    return run

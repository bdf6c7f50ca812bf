"""Exported graphs compute what PyTorch computes, and a graph that does not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.export.graphs import Graph
from model.export.parity import (
    ABSOLUTE_FLOAT32,
    RELATIVE_HALF,
    Parity,
    ParityError,
    compare,
    evaluate,
    onnxruntime_runner,
)

pytestmark = pytest.mark.timeout(1800)


def test_onnx_runtime_computes_the_same(exported: list[tuple[Graph, Path]]) -> None:
    assert [graph.key for graph, _ in exported] == ["prepare-1", "denoise-2", "decode-2"]
    for graph, path in exported:
        parity = compare(graph, onnxruntime_runner(path, graph.output_names))
        print(parity)  # noqa: T201
        parity.check()


def test_parity_limits() -> None:
    Parity("graph", ABSOLUTE_FLOAT32, 1.0, half=False).check()
    Parity("graph", 1.0, RELATIVE_HALF, half=True).check()
    with pytest.raises(ParityError, match="graph"):
        Parity("graph", 2 * ABSOLUTE_FLOAT32, 0.0, half=False).check()
    with pytest.raises(ParityError):
        Parity("graph", 0.0, float("inf"), half=True).check()


def test_the_worst_output_counts() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, 2 * x

    graph = Graph("denoise", 1, Two(), {"x": torch.ones(4)}, ("a", "b"))
    exact = evaluate(graph)
    assert compare(graph, lambda _: exact) == Parity("denoise-1", 0.0, 0.0, half=False)
    off = compare(graph, lambda _: (exact[0], exact[1] + 0.5))
    assert (off.absolute, off.relative) == (0.5, 0.25)
    broken = compare(graph, lambda _: (exact[0], exact[1] * float("nan")))
    assert not broken.accepted

"""Exporting graphs takes a while: once for all modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.export.command import load_sampler
from model.export.graphs import Graph, sampler_graphs
from model.export.onnx import export
from tests.model.engine.jobs import grid_checkpoint, small_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose image tokens form a grid."""
    return grid_checkpoint(tmp_path_factory.mktemp("grid") / "model")


@pytest.fixture(
    scope="session",
    params=[("checkpoint", "float32"), ("checkpoint", "float16"), ("grid", "float32")],
    ids="-".join,
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Graph, Path]]:
    checkpoint, precision = request.param
    sampler, config = load_sampler(request.getfixturevalue(checkpoint), precision)
    directory = tmp_path_factory.mktemp(f"{checkpoint}-{precision}")
    graphs = sampler_graphs(sampler, config, (2,))
    return [(graph, export(graph, directory / f"{graph.key}.onnx")) for graph in graphs]

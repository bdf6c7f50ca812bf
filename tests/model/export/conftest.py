"""Exporting graphs takes a while: once for all modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.export.command import load_sampler
from model.export.graphs import Graph, sampler_graphs
from model.export.manifest import Precision
from model.export.onnx import export
from tests.model.engine.jobs import small_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session", params=["float32", "float16"])
def exported(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Graph, Path]]:
    precision: Precision = request.param
    sampler, config = load_sampler(checkpoint, precision)
    directory = tmp_path_factory.mktemp(precision)
    graphs = sampler_graphs(sampler, config, (2,))
    return [(graph, export(graph, directory / f"{graph.key}.onnx")) for graph in graphs]

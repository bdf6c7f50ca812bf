"""Exported graphs have the operators that TensorRT takes, and the outputs of their modules."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from model.export import tensorrt
from model.export.graphs import Graph
from model.export.manifest import TensorSpec
from model.export.onnx import output_specs
from model.export.parity import evaluate
from tests.model.export.operators import LISTED, read_operators, refusals

pytestmark = pytest.mark.timeout(1800)


def test_tensorrt_lists_every_operator(exported: list[tuple[Graph, Path]]) -> None:
    """Every node is one that TensorRT lists, with its type and rank."""
    operators = read_operators(LISTED)
    for _, path in exported:
        assert list(refusals(path, operators)) == []
    kinds = {node.op_type for node in onnx.load(exported[1][1]).graph.node}
    assert "GridSample" in kinds


def test_outputs_are_read_from_the_file(exported: list[tuple[Graph, Path]]) -> None:
    for graph, path in exported:
        named = zip(graph.output_names, evaluate(graph), strict=True)
        assert output_specs(path) == tuple(TensorSpec.of(name, tensor) for name, tensor in named)


def single_node_model(path: Path, operator: str, shape: tuple[int, ...]) -> Path:
    """An ONNX file with one node."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(operator, ["x"], ["y"], name="the_node")
    graph = helper.make_graph([node], "graph", [given], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_refused_operator_is_named(tmp_path: Path) -> None:
    path = single_node_model(tmp_path / "refused.onnx", "Bernoulli", (2, 2))
    found = list(refusals(path, read_operators(LISTED)))
    assert [(refusal.node, refusal.operator) for refusal in found] == [("the_node", "Bernoulli")]
    with pytest.raises(tensorrt.BuildError, match="Bernoulli"):
        tensorrt.build(path, "rtx", ["SM89"])

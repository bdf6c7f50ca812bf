"""Whether TensorRT lists the operators of an ONNX file, with their number types and ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

LISTED = Path(__file__).parents[2] / "data" / "tensorrt" / "onnx_operators.json"
_TYPES = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True)
class Refusal:
    """A node that TensorRT's list of operators does not allow."""

    node: str
    operator: str
    reason: str


def refusals(path: Path, operators: Mapping[str, Any]) -> Iterator[Refusal]:
    """Compare every node's operator, number types and rank with a list of supported operators.

    Args:
        path: of the ONNX model.
        operators: by name: `supported`, `types`, `restrictions`.
    """
    model = onnx.shape_inference.infer_shapes(
        onnx.load(path, load_external_data=False), data_prop=True
    )
    types, ranks = _tensors(model)
    for node in model.graph.node:
        entry = operators.get(node.op_type)
        if entry is None or not entry["supported"]:
            yield Refusal(node.name, node.op_type, "not supported")
            continue
        for name in node.input:
            kind = _TYPES.get(types.get(name, onnx.TensorProto.FLOAT), "other")
            if entry["types"] and kind not in entry["types"] and not _is_index(node.op_type, kind):
                yield Refusal(node.name, node.op_type, f"input {name} is {kind}")
        if node.op_type == "GridSample" and ranks.get(node.input[0]) != 4:
            yield Refusal(node.name, node.op_type, f"rank {ranks.get(node.input[0])}, not 4")


def _is_index(operator: str, kind: str) -> bool:
    """Integer inputs that say where or how, beside the data that the list's types are about."""
    shaping = {"Reshape", "Expand", "Gather", "Slice", "Split", "Unsqueeze", "Squeeze", "Tile"}
    reducing = {"ReduceSum", "ReduceMean", "ReduceMax", "Resize", "Pad", "GatherElements"}
    return kind == "INT64" and operator in shaping | reducing


def _tensors(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Number type and rank of every named tensor."""
    types, ranks = {}, {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    for constant in model.graph.initializer:
        types[constant.name], ranks[constant.name] = constant.data_type, len(constant.dims)
    return types, ranks


def read_operators(path: Path) -> dict[str, Any]:
    """The list of supported operators."""
    operators: dict[str, Any] = json.loads(path.read_text())["operators"]
    return operators

"""PyTorch to ONNX."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch

from model.export.graphs import Graph
from model.export.manifest import TensorSpec

OPSET = 20
logger = logging.getLogger(__name__)


def export(graph: Graph, path: Path) -> Path:
    """Write a graph with static shapes and named tensors; large weights go beside it.

    Raises:
        ValueError: the graph did not export to standard operators.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The exporter warns of every torchvision operator that it can't register.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.output_names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    if custom := {node.domain for node in model.graph.node} - {"", "ai.onnx"}:
        raise ValueError(f"{graph.key} has operators of {sorted(custom)}")
    logger.info("exported %s: %d nodes", graph.key, len(model.graph.node))
    return path


def output_specs(path: Path) -> tuple[TensorSpec, ...]:
    """The outputs of a graph of static shapes, read from its file without evaluating it."""
    outputs = onnx.load(path, load_external_data=False).graph.output
    types = [output.type.tensor_type for output in outputs]
    return tuple(
        TensorSpec(
            output.name,
            tuple(dimension.dim_value for dimension in kind.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        )
        for output, kind in zip(outputs, types, strict=True)
    )

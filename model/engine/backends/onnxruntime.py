"""The `onnxruntime` backend: the exported graphs on the CPU, or on CUDA where its build has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from model.engine.backends.graphs import GraphBackend
from model.export.compile import CompileOptions, compile_checkpoint
from model.export.manifest import Manifest


class OnnxExecutor:
    """One graph in an ONNX Runtime session."""

    def __init__(self, path: Path, output_names: tuple[str, ...], num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        available = onnxruntime.get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=[name for name in wanted if name in available]
        )
        self._accepted = {value.name for value in self._session.get_inputs()}
        self._output_names = list(output_names)
        self._bound: dict[str, onnxruntime.OrtValue] = {}

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Hand over tensors that stay; they are read in place."""
        self._bound = self._values(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate."""
        feed = self._bound | self._values(inputs)
        outputs = self._session.run_with_ort_values(self._output_names, feed)
        return [torch.from_numpy(output.numpy()) for output in outputs]

    def _values(self, inputs: Mapping[str, Tensor]) -> dict[str, onnxruntime.OrtValue]:
        """Inputs that the graph kept, as ONNX Runtime's tensors."""
        return {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(x.contiguous().cpu().numpy())
            for name, x in inputs.items()
            if name in self._accepted
        }


def onnxruntime_backend(
    checkpoint: Path, directory: Path, buckets: tuple[int, ...]
) -> GraphBackend:
    """The backend; graphs that were not exported before are exported now."""
    options = CompileOptions("onnxruntime", targets=(), precision="float32", buckets=buckets)
    place, manifest = compile_checkpoint(checkpoint, directory, options)
    return GraphBackend(checkpoint, manifest, _executors(place, manifest), "cpu", "onnxruntime")


def _executors(place: Path, manifest: Manifest) -> dict[str, OnnxExecutor]:
    return {
        name: OnnxExecutor(
            place / graph.file,
            tuple(output.name for output in graph.outputs),
            torch.get_num_threads(),
        )
        for name, graph in manifest.graphs.items()
    }

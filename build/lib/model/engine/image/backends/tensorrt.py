"""The `tensorrt` backend: compiled engines of either packaging.

Only the selection of engines runs without a GPU; docs/image_engine.md says what has run where.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from model.engine.image.backends.base import BackendUnavailable
from model.engine.image.backends.graphs import GraphBackend
from model.export import tensorrt
from model.export.manifest import MANIFEST, CompiledGraph, Manifest, model_digest
from model.export.tensorrt import Flavour

logger = logging.getLogger(__name__)


def select(
    directory: Path, digest: str, capability: tuple[int, int] | None
) -> tuple[Path, Manifest]:
    """The newest engines of a checkpoint that fit a GPU.

    Args:
        directory: cache directory of `mmi compile`.
        digest: of the checkpoint.
        capability: of the GPU; None where there is none.

    Raises:
        BackendUnavailable: there are none; the message lists those for other targets.
    """
    if capability is None:
        raise BackendUnavailable("there is no CUDA device")
    seen, fitting = [], []
    for path in directory.glob(f"*/{MANIFEST}"):
        manifest = Manifest.load(path.parent)
        key = manifest.key
        if key.backend != "tensorrt" or key.model_digest != digest:
            continue
        seen.append(f"{key.flavour} {','.join(key.targets)} {key.library_version}")
        if fits(manifest, capability):
            fitting.append((path.stat().st_mtime, path.parent, manifest))
    if not fitting:
        listed = "; ".join(seen) or "none"
        raise BackendUnavailable(f"no engine fits capability {capability}; there are: {listed}")
    _, place, manifest = max(fitting, key=lambda entry: entry[0])
    return place, manifest


def select_here(checkpoint: Path, directory: Path) -> tuple[Path, Manifest]:
    """The engines of a checkpoint that fit this machine's GPU.

    Raises:
        BackendUnavailable: there is no GPU or no engine for it.
    """
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return select(directory, model_digest(checkpoint), capability)


def fits(manifest: Manifest, capability: tuple[int, int]) -> bool:
    """Whether engines were built for a GPU and for the installed library."""
    key = manifest.key
    flavour: Flavour = "rtx" if key.flavour == "rtx" else "standard"
    try:
        installed = tensorrt.version(flavour)
    except tensorrt.LibraryMissing:
        return False
    target = f"SM{capability[0]}{capability[1]}"
    return installed == key.library_version and (not key.targets or target in key.targets)


class TensorRTExecutor:
    """One engine with fixed buffers and its own stream, replayed as a CUDA graph."""

    def __init__(self, flavour: Flavour, path: Path, graph: CompiledGraph) -> None:
        trt = tensorrt.library(flavour)
        self._runtime = trt.Runtime(tensorrt.make_logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendUnavailable(f"{path.name} can't be loaded on this GPU")
        self._runtime_config: Any = None
        self._context = self._make_context(trt, flavour, path.with_suffix(".runtime.cache"))
        self._stream = torch.cuda.Stream()
        self._inputs = _buffers(graph.inputs, self._names(trt, trt.TensorIOMode.INPUT))
        self._outputs = _buffers(graph.outputs, self._names(trt, trt.TensorIOMode.OUTPUT))
        for name, buffer in (self._inputs | self._outputs).items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        # RTX compiles its kernels first and then captures the graph; the standard flavour does not.
        self._captures = flavour == "standard"
        self._graph: torch.cuda.CUDAGraph | None = None

    def _make_context(self, trt: ModuleType, flavour: Flavour, cache_path: Path) -> Any:
        """An execution context; RTX reads the kernels of earlier runs from a cache on disk."""
        if flavour == "standard":
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if cache_path.exists():
            cache.deserialize(cache_path.read_bytes())
        config.set_runtime_cache(cache)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._runtime_config, self._cache_path = config, cache_path
        return self._engine.create_execution_context(config)

    def save_runtime_cache(self) -> None:
        """Save the kernels that RTX has compiled for this GPU."""
        if self._runtime_config is not None:
            cache = self._runtime_config.get_runtime_cache()
            self._cache_path.write_bytes(bytes(cache.serialize()))

    def _names(self, trt: ModuleType, mode: Any) -> set[str]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        return {name for name in names if self._engine.get_tensor_mode(name) == mode}

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Copy constant inputs into the engine's buffers, once for many runs."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, tensor in inputs.items():
                if name in self._inputs:
                    self._inputs[name].copy_(tensor, non_blocking=True)

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate; the outputs are the engine's own buffers."""
        self.bind(inputs)
        with torch.cuda.stream(self._stream):
            if self._graph is not None:
                self._graph.replay()
            elif not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("TensorRT could not enqueue the engine")
            elif self._captures:
                self._capture()
        torch.cuda.current_stream().wait_stream(self._stream)
        return list(self._outputs.values())

    def _capture(self) -> None:
        """Record the engine's kernels, after a first run that has allocated its memory."""
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)


def _buffers(specs: Any, names: set[str]) -> dict[str, Tensor]:
    """Fixed memory for those tensors that the engine has."""
    return {
        spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="cuda")
        for spec in specs
        if spec.name in names
    }


def tensorrt_backend(checkpoint: Path, directory: Path) -> GraphBackend:
    """The backend on this machine's GPU.

    Raises:
        BackendUnavailable: there is no GPU or no engine for it.
    """
    place, manifest = select_here(checkpoint, directory)
    manifest.verify(place)
    flavour: Flavour = "rtx" if manifest.key.flavour == "rtx" else "standard"
    executors = {
        name: TensorRTExecutor(flavour, place / graph.file, graph)
        for name, graph in manifest.graphs.items()
    }
    return TensorRTBackend(checkpoint, manifest, executors, "cuda", "tensorrt")


class TensorRTBackend(GraphBackend):
    """Graphs in TensorRT engines."""

    def start(self) -> None:
        """Load, compare with PyTorch on this GPU, and save the kernels that RTX has compiled."""
        super().start()
        for executor in self.executors.values():
            assert isinstance(executor, TensorRTExecutor)
            executor.save_runtime_cache()

"""The `onnxruntime` backend: the exported graphs on the CPU, or on CUDA where its build has it.

Legend: B images, N rows (2B: negative half first), C latent channels, H, W latent grid, S pixels.

On CUDA a graph reads and writes tensors where they are, and the host does not wait for it.

On the CPU each image is a separate evaluation; several run side by side on one thread each. A
larger batch would not multiply faster there, because rows are already long, and small operators
gain nothing from more threads. So one graph serves every number of images, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from model.engine.image.backends.base import BackendUnavailable, Capabilities, Predict
from model.engine.image.backends.graphs import GraphBackend
from model.export.command import CompileOptions, compile_checkpoint
from model.export.manifest import CompiledGraph, Manifest, TensorSpec
from model.image_decoder.unet.conditions import Conditions

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_CUDA_BUCKETS = (1, 2, 4, 8)


class OnnxExecutor:
    """One graph on the CPU; `run` may be called from several threads."""

    def __init__(self, path: Path, output_names: Sequence[str], num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Spinning idle threads would slow the text engine on the same machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=[_CPU])
        self._accepted = {value.name for value in self._session.get_inputs()}
        self._output_names = list(output_names)
        self._bound: dict[str, onnxruntime.OrtValue] = {}

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Set constant inputs; they are read in place."""
        self._bound = self.values(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate."""
        return self.evaluate(self._bound | self.values(inputs))

    def evaluate(self, values: Mapping[str, onnxruntime.OrtValue]) -> list[Tensor]:
        """Evaluate all inputs, given as `values` returns them."""
        outputs = self._session.run_with_ort_values(self._output_names, values)
        return [torch.from_numpy(output.numpy()) for output in outputs]

    def values(self, inputs: Mapping[str, Tensor]) -> dict[str, onnxruntime.OrtValue]:
        """The inputs that the graph reads, as ONNX Runtime's tensors; on the CPU without a copy."""
        return {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(x.contiguous().cpu().numpy())
            for name, x in inputs.items()
            if name in self._accepted
        }


class BoundExecutor:
    """One graph that reads and writes fixed memory on a device (IO binding)."""

    def __init__(self, path: Path, graph: CompiledGraph, device: torch.device) -> None:
        options = onnxruntime.SessionOptions()
        providers: list[tuple[str, dict[str, str]]] = [(_CPU, {})]
        self._run = onnxruntime.RunOptions()
        # Not PyTorch's default stream: its handle is 0, which ONNX Runtime takes for "none given".
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            stream = str(self._stream.cuda_stream)
            providers.insert(0, (_CUDA, {"user_compute_stream": stream}))
            self._run.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        self._binding = self._session.io_binding()
        accepted = {value.name for value in self._session.get_inputs()}
        inputs = [spec for spec in graph.inputs if spec.name in accepted]
        self._inputs = {spec.name: _memory(spec, device) for spec in inputs}
        self._outputs = {spec.name: _memory(spec, device) for spec in graph.outputs}
        for name, tensor in self._inputs.items():
            self._binding.bind_input(name, *_place(tensor))
        for name, tensor in self._outputs.items():
            self._binding.bind_output(name, *_place(tensor))

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Copy constant inputs into the graph's memory."""
        for name, tensor in inputs.items():
            if name in self._inputs:
                self._inputs[name].copy_(tensor, non_blocking=True)

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Evaluate; the outputs are overwritten by the next run."""
        self.bind(inputs)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._session.run_with_iobinding(self._binding, self._run)
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        return list(self._outputs.values())


def _memory(spec: TensorSpec, device: torch.device) -> Tensor:
    return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=device)


def _place(tensor: Tensor) -> tuple[str, int, Any, tuple[int, ...], int]:
    """Where a tensor is, in the terms of IO binding."""
    element = torch.empty((), dtype=tensor.dtype).numpy().dtype.type
    device = tensor.device
    return device.type, device.index or 0, element, tuple(tensor.shape), tensor.data_ptr()


class OnnxBackend(GraphBackend):
    """The graphs of one image on the CPU, for any number of images."""

    def __init__(
        self,
        checkpoint: Path,
        manifest: Manifest,
        alone: Mapping[str, OnnxExecutor],
        beside: Mapping[str, OnnxExecutor],
        max_batch: int,
    ) -> None:
        """Take sessions of all threads for a single image, and of one thread for several."""
        super().__init__(checkpoint, manifest, alone, "cpu", "onnxruntime")
        self.max_batch = max_batch
        self._alone, self._beside = alone, beside
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="onnxruntime")

    @property
    def capabilities(self) -> Capabilities:
        """Any number of images, and any size: PyTorch runs those that were not compiled."""
        buckets = tuple(range(1, self.max_batch + 1))
        return replace(super().capabilities, buckets=buckets, sizes=None)

    def join(self, images: Sequence[Conditions], guided: bool) -> Predict:
        """The graph for each image; PyTorch for a size that was not compiled."""
        executor = self._beside["denoise-1"]
        constants = [executor.values(self.constants([image])) for image in images]

        @cache
        def by_torch() -> Predict:
            return self.torch.join(images, guided)

        def predict(latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
            if not self._is_compiled(latents_BCHW):
                return by_torch()(latents_BCHW, timesteps_B)

            def one(executor: OnnxExecutor, index: int) -> Tensor:
                inputs = {
                    "latents": latents_BCHW[index : index + 1],
                    "timesteps": timesteps_B[index : index + 1].float(),
                }
                return executor.evaluate({**constants[index], **executor.values(inputs)})[0]

            noise_B2CHW = torch.stack(self._side_by_side("denoise-1", one, len(latents_BCHW)))
            halves = noise_B2CHW.transpose(0, 1)
            return (halves if guided else halves[1:]).flatten(0, 1)

        return predict

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        if not self._is_compiled(latents_BCHW):
            return self.torch.decode(latents_BCHW)

        def one(executor: OnnxExecutor, index: int) -> Tensor:
            return executor.run({"latents": latents_BCHW[index : index + 1].float()})[0]

        return torch.cat(self._side_by_side("decode-1", one, len(latents_BCHW)))

    def _is_compiled(self, latents_BCHW: Tensor) -> bool:
        return latents_BCHW.shape[-2:] == (self.manifest.latent_size,) * 2

    def _side_by_side(
        self, graph: str, one: Callable[[OnnxExecutor, int], Tensor], num: int
    ) -> list[Tensor]:
        """Evaluate a graph for every image: one with all threads, several on one thread each."""
        if num == 1:
            return [one(self._alone[graph], 0)]
        return list(self._pool.map(lambda index: one(self._beside[graph], index), range(num)))

    def stop(self) -> None:
        """Free memory."""
        super().stop()
        self._pool.shutdown()
        self._alone = self._beside = {}


def onnxruntime_backend(checkpoint: Path, directory: Path, max_batch: int) -> GraphBackend:
    """The backend of a checkpoint, whose graphs are exported unless the cache has them.

    Raises:
        BackendUnavailable: they can't be exported, or the cache can't be written.
    """
    on_cpu = _CUDA not in onnxruntime.get_available_providers()
    buckets = (1,) if on_cpu else tuple(b for b in _CUDA_BUCKETS if b <= max_batch)
    options = CompileOptions("onnxruntime", targets=(), precision="float32", buckets=buckets)
    try:
        place, manifest = compile_checkpoint(checkpoint, directory, options)
    except (torch.onnx.OnnxExporterError, OSError) as error:
        raise BackendUnavailable(f"export to {directory} failed: {error}") from error
    if not on_cpu:
        return bound_backend(checkpoint, place, manifest, torch.device("cuda"))
    num_threads = torch.get_num_threads()
    alone = _executors(place, manifest, num_threads)
    beside = alone if num_threads == 1 else _executors(place, manifest, 1)
    return OnnxBackend(checkpoint, manifest, alone, beside, max_batch)


def bound_backend(
    checkpoint: Path, place: Path, manifest: Manifest, device: torch.device
) -> GraphBackend:
    """Graphs of batches that stay on one device."""
    executors = {
        name: BoundExecutor(place / graph.file, graph, device)
        for name, graph in manifest.graphs.items()
    }
    return GraphBackend(checkpoint, manifest, executors, str(device), "onnxruntime")


def _executors(place: Path, manifest: Manifest, num_threads: int) -> dict[str, OnnxExecutor]:
    return {
        name: OnnxExecutor(
            place / graph.file, tuple(output.name for output in graph.outputs), num_threads
        )
        for name, graph in manifest.graphs.items()
    }

"""Chooses the backend of an image engine."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace

import torch

from model.engine.image.backends.base import Backend, BackendUnavailable
from model.engine.image.backends.eager import TorchBackend, choose_device, choose_dtype
from model.engine.image.options import BackendName, ImageEngineOptions
from model.export.parity import ParityError

_EXPORTERS = ("onnx", "onnxruntime", "onnxscript")
logger = logging.getLogger(__name__)


def load_backend(options: ImageEngineOptions) -> tuple[Backend, str]:
    """The chosen backend, started; or `torch`, and why the chosen one is not used.

    Raises:
        BackendUnavailable: it can't run here, and no fallback is allowed.
        ParityError: its numbers differ from PyTorch's, and no fallback is allowed.
    """
    name = fastest(options) if options.backend == "auto" else options.backend
    try:
        return _start(replace(options, backend=name)), ""
    except (BackendUnavailable, ParityError) as error:
        if not options.fallback:
            raise
        reason = str(error)
    logger.error("backend %s is not used, torch is: %s", name, reason)
    return _start(replace(options, backend="torch")), reason


def fastest(options: ImageEngineOptions) -> BackendName:
    """The backend that `auto` means here.

    On a GPU `tensorrt`, if engines are compiled for it. On a CPU `onnxruntime`, which takes about
    half of PyTorch's time (docs/performance.md), unless 16 bits are faster there. Else `torch`.
    """
    device = choose_device(options.device)
    if options.compiled:
        return "torch"
    if device != "cpu":
        return "tensorrt" if _has_engines(options) else "torch"
    installed = all(importlib.util.find_spec(module) for module in _EXPORTERS)
    in_float32 = choose_dtype(options.dtype, torch.device(device)) == "float32"
    return "onnxruntime" if installed and in_float32 else "torch"


def _has_engines(options: ImageEngineOptions) -> bool:
    """Whether engines of this checkpoint are compiled for this GPU."""
    from model.engine.image.backends import tensorrt

    try:
        tensorrt.select_here(options.checkpoint, options.engines)
    except BackendUnavailable as error:
        logger.info("no TensorRT: %s", error)
        return False
    return True


def _start(options: ImageEngineOptions) -> Backend:
    backend = make_backend(options)
    backend.start()
    logger.info("image backend: %s", backend.capabilities)
    return backend


def make_backend(options: ImageEngineOptions) -> Backend:
    """The backend of some options, not started. Its library is imported only if it is chosen.

    Raises:
        BackendUnavailable: it can't run here.
    """
    if options.backend == "onnxruntime":
        if missing := [name for name in _EXPORTERS if importlib.util.find_spec(name) is None]:
            raise BackendUnavailable(f"not installed: {', '.join(missing)}")
        from model.engine.image.backends.onnxruntime import onnxruntime_backend

        return onnxruntime_backend(options.checkpoint, options.engines, options.max_batch)
    if options.backend == "tensorrt":
        from model.engine.image.backends.tensorrt import tensorrt_backend

        return tensorrt_backend(options.checkpoint, options.engines)
    return TorchBackend(
        options.checkpoint,
        options.device,
        options.dtype,
        options.max_batch,
        warm_up=options.warm_up,
        compiled_into=options.compile_cache if options.compiled else None,
    )

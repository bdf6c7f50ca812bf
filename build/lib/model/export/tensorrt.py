"""ONNX to TensorRT engines, with either packaging of NVIDIA's library.

`standard` (package `tensorrt`) builds on, and for, the machine's GPU. `rtx` (package
`tensorrt-rtx`) builds without a GPU, for one or several compute capabilities, and compiles kernels
when an engine is loaded. Both have the same API and accept strongly typed networks only: the ONNX
file sets the precision.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

Flavour = Literal["standard", "rtx"]
# The second name is the package of bindings that the first one re-exports.
_MODULES: dict[Flavour, tuple[str, str]] = {
    "standard": ("tensorrt", "tensorrt_bindings"),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_WORKSPACE_BYTES = 4 * 2**30
logger = logging.getLogger(__name__)


class LibraryMissing(RuntimeError):
    """The requested packaging of TensorRT is not installed."""


class BuildError(RuntimeError):
    """TensorRT rejected a graph; the message names the operator."""


def library(flavour: Flavour) -> ModuleType:
    """The Python module of a packaging.

    Raises:
        LibraryMissing: naming the package to install.
    """
    for name in _MODULES[flavour]:
        try:
            return importlib.import_module(name)
        except ImportError:  # Not installed, or bindings without their shared libraries.
            continue
    package = _MODULES[flavour][0].replace("_", "-")
    raise LibraryMissing(f"TensorRT's flavour {flavour!r} needs the package {package!r}")


def version(flavour: Flavour) -> str:
    """The version of a packaging."""
    return str(library(flavour).__version__)


def parse_targets(flavour: Flavour, targets: Sequence[str]) -> list[str]:
    """Compute capabilities such as `8.6` as the library names them, such as `SM86`.

    TensorRT-RTX has a list of capabilities that it builds for anywhere. Others, such as 9.0, it
    can only try for the GPU at hand; `current` means that one, listed or not.

    Raises:
        ValueError: the flavour does not build for one of them here.
    """
    if flavour == "standard":
        if targets:
            raise ValueError("the standard flavour builds for the GPU it runs on: no targets")
        return []
    known, current = _listed(library(flavour)), _current()
    names = [
        current or target if target == "current" else f"SM{target.replace('.', '')}"
        for target in targets
    ]
    for name, target in zip(names, targets, strict=True):
        if name not in known and name != current:
            raise ValueError(
                f"{target} is not a target of TensorRT-RTX on this machine; known: {sorted(known)},"
                f" and the machine's own GPU ({current or 'none'})"
            )
    return names


def _listed(trt: ModuleType) -> set[str]:
    """The capabilities that engines can be built for without such a GPU."""
    return {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}


def _current() -> str | None:
    """The capability of this machine's GPU."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def build(
    onnx_path: Path,
    flavour: Flavour,
    targets: Sequence[str] = (),
    timing_cache: Path | None = None,
) -> bytes:
    """Compile one ONNX file.

    Args:
        onnx_path: the graph.
        flavour: which packaging.
        targets: from `parse_targets`; none means this machine's GPU.
        timing_cache: measurements of earlier builds, read and written (standard only).

    Raises:
        BuildError: naming the rejected operator.
    """
    trt = library(flavour)
    log = make_logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise BuildError(f"{onnx_path.stem}: " + "; ".join(_parser_errors(parser)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    config.progress_monitor = progress_monitor(trt, onnx_path.stem)
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            member = name if name in _listed(trt) else "CURRENT"
            config.set_compute_capability(getattr(trt.ComputeCapability, member), index)
    cache = _read_timing_cache(config, timing_cache) if flavour == "standard" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{onnx_path.stem}: {log.last_error or 'the builder gave no reason'}")
    if cache is not None and timing_cache is not None:
        timing_cache.write_bytes(bytes(cache.serialize()))
    return bytes(plan)


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    stored = path.read_bytes() if path is not None and path.exists() else b""
    cache = config.create_timing_cache(stored)
    config.set_timing_cache(cache, False)
    return cache


def _parser_errors(parser: Any) -> list[str]:
    """The parser's errors, by operator and node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [f"{error.node_operator()} ({error.node_name()}): {error.desc()}" for error in errors]


def progress_monitor(trt: ModuleType, name: str) -> Any:
    """Logs the phases of a build, their ends at level info."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            logger.debug("%s: %s, %d steps", name, phase, num_steps)

        def step_complete(self, phase: str, step: int) -> bool:
            """Return True to continue the build."""
            return True

        def phase_finish(self, phase: str) -> None:
            logger.info("%s: %s done", name, phase)

    return Monitor()


def make_logger(trt: ModuleType) -> Any:
    """Forwards TensorRT's messages to the log, and keeps the last error for exceptions."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = message
                logger.error("TensorRT: %s", message)
            elif severity == trt.ILogger.WARNING:
                logger.warning("TensorRT: %s", message)
            else:
                logger.debug("TensorRT: %s", message)

    return Log()

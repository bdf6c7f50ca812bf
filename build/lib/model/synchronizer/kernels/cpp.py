"""The fused kernel in C++ for CPUs: compiled once per machine, loaded by ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.compiler import find_compiler
from model.synchronizer.geometry import EXTRA, Geometry, Sight

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("sample.cpp")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-Wno-psabi",
)
_COMPILE_SECONDS = 120


def _fields(kind: type[Any], names: str) -> list[tuple[str, type[Any]]]:
    """Fields of one type in a C structure."""
    return [(name, kind) for name in names.split()]


class _Sizes(ctypes.Structure):
    """Mirrors `Sizes` in sample.cpp."""

    _fields_ = [
        *_fields(
            ctypes.c_int64,
            "tokens heads points levels channels vectors_per_token image_tokens base_side"
            " block_size table_width image_columns query_width tables references",
        ),
        *_fields(ctypes.c_void_p, "sides starts"),
    ]


class _Inputs(ctypes.Structure):
    """Mirrors `Inputs` in sample.cpp."""

    _fields_ = _fields(
        ctypes.c_void_p,
        "query relative features request base count image_start block_table reference out",
    )


class CppKernel:
    """A `Kernel` for float32 and bfloat16 features in main memory."""

    def __init__(self, library: ctypes.CDLL, geometry: Geometry) -> None:
        self.geometry = geometry
        self._function = library.mmi_sample
        self._function.restype = None
        self._sides = torch.tensor(geometry.sides, dtype=torch.int64)
        self._starts = torch.tensor(geometry.level_starts, dtype=torch.int64)

    def __call__(
        self, query_TX: Tensor, relative_RX: Tensor, features_NW: Tensor, sight: Sight
    ) -> Tensor:
        """Sample; see `Kernel`."""
        geometry, tokens = self.geometry, len(sight.request_T)
        out_THC = torch.empty(tokens, geometry.num_heads, geometry.channels + EXTRA)
        query_TX = query_TX[:tokens].float().contiguous()
        relative_RX = relative_RX.float().contiguous()
        table_RW = sight.block_table_RW.contiguous()
        sizes = _Sizes(
            tokens,
            geometry.num_heads,
            geometry.num_points,
            len(geometry.sides),
            geometry.channels,
            geometry.vectors_per_token,
            geometry.image_tokens,
            geometry.base_side,
            sight.block_size,
            table_RW.shape[1],
            sight.image_start_RI.shape[1],
            query_TX.shape[1],
            geometry.num_tables,
            len(sight.reference_P2),
            self._sides.data_ptr(),
            self._starts.data_ptr(),
        )
        tensors = (
            query_TX,
            relative_RX,
            features_NW,
            sight.request_T,
            sight.base_T,
            sight.count_T,
            sight.image_start_RI,
            table_RW,
            sight.reference_P2,
            out_THC,
        )
        inputs = _Inputs(*(tensor.data_ptr() for tensor in tensors))
        self._function(
            ctypes.byref(sizes), ctypes.byref(inputs), int(features_NW.dtype == torch.bfloat16)
        )
        return out_THC


def build(cache_dir: Path) -> ctypes.CDLL | None:
    """Compile the kernel, or take it from the cache; None where that is impossible."""
    compiler = find_compiler()
    if compiler is None:
        logger.warning("no C++ compiler found: grid sampling runs in PyTorch, which is slower")
        return None
    openmp = _openmp()
    text = _SOURCE.read_text() + repr((_FLAGS, openmp, platform.processor(), _cpu()))
    library = cache_dir / "native" / f"sample-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = library.with_suffix(f".{os.getpid()}.so")
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(temporary), *openmp]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
        )
        if result.returncode:
            logger.warning("compiling grid sampling failed, PyTorch runs it: %s", result.stderr)
            return None
        temporary.replace(library)
    return ctypes.CDLL(str(library))


def _openmp() -> tuple[str, ...]:
    """Flags that use the very OpenMP runtime that PyTorch has loaded: one pool of threads."""
    runtimes = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not runtimes:
        return ()
    return ("-fopenmp", "-nodefaultlibs", str(runtimes[0]), "-lstdc++", "-lm", "-lgcc_s", "-lc")


def _cpu() -> str:
    """What distinguishes processors that do not share an instruction set."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")

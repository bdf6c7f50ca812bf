"""The machine's C++ compiler. It makes some code faster; nothing needs it to run."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

# vLLM reads the one, PyTorch both.
DISABLING = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")
_NAMES = ("g++", "c++", "clang++")
_PROBE = "#include <Python.h>\n#include <cmath>\n#include <omp.h>\n"
_PROBE_SECONDS = 30


@cache
def find_compiler() -> str | None:
    """Path of `$CXX`, or else of the first usual compiler on the path."""
    names = (os.environ.get("CXX"), *_NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def torch_can_compile() -> bool:
    """Whether the compiler builds what torch.compile generates: it needs Python's headers too."""
    compiler = find_compiler()
    if compiler is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "probe.cpp"
        source.write_text(_PROBE)
        include = f"-I{sysconfig.get_path('include')}"
        options = ("-std=c++17", "-shared", "-fPIC", "-fopenmp", include)
        command = [compiler, *options, str(source), "-o", str(source.with_suffix(".so"))]
        try:
            result = subprocess.run(
                command, capture_output=True, timeout=_PROBE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return result.returncode == 0


@cache
def prepare_torch_compile() -> bool:
    """Make torch.compile work in this process and its children, or run functions uncompiled.

    PyTorch looks for a compiler when a compiled function is first called, and raises an error if
    there is none. Call this before such functions can run. The results are the same either way.

    Returns:
        Whether torch.compile compiles.
    """
    compiler = find_compiler()
    if compiler is not None and torch_can_compile():
        os.environ["CXX"] = compiler  # PyTorch itself looks for nothing but `$CXX` and g++.
        return True
    import torch._dynamo

    for variable in DISABLING:
        os.environ[variable] = "1"
    torch._dynamo.config.disable = True
    found = f"{compiler} cannot build Python extensions" if compiler else "no C++ compiler found"
    logger.warning("%s: functions run uncompiled, slower and with the same results", found)
    return False

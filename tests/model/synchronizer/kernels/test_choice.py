from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from model.synchronizer.kernels import choice, gather
from model.synchronizer.kernels.choice import choose_kernel
from model.synchronizer.kernels.numba import NumbaKernel
from tests.model.synchronizer.kernels import paged

GEOMETRY = paged.GEOMETRIES["one map"]
CPU = torch.device("cpu")


def is_torch(kernel: object) -> bool:
    return isinstance(kernel, partial) and kernel.func is gather.sample


def test_no_compiler_no_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_compiler", lambda: None)
    assert is_torch(choose_kernel("auto", GEOMETRY, CPU, torch.float32, tmp_path))
    assert not any(tmp_path.iterdir())


def test_float16_on_cpus_has_no_fused_kernel(tmp_path: Path) -> None:
    assert is_torch(choose_kernel("auto", GEOMETRY, CPU, torch.float16, tmp_path))


def test_kernels_are_chosen_by_name(tmp_path: Path) -> None:
    assert isinstance(choose_kernel("numba", GEOMETRY, CPU, torch.float32, tmp_path), NumbaKernel)
    assert is_torch(choose_kernel("torch", GEOMETRY, CPU, torch.float32, tmp_path))


@pytest.mark.parametrize(
    ("kind", "device", "dtype"),
    [("cuda", "cpu", "float32"), ("cpp", "cuda", "float32"), ("numba", "cpu", "bfloat16")],
)
def test_kernels_that_cannot_run_are_refused(
    kind: str, device: str, dtype: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"no grid sampling kernel '{kind}' for {device}"):
        choose_kernel(kind, GEOMETRY, torch.device(device), getattr(torch, dtype), tmp_path)

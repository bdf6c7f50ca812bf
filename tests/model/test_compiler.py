"""Nothing needs a C++ compiler: without one functions run uncompiled and say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model import compiler
from tests.model.without_compiler import environment


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_compiler", compiler.find_compiler.__wrapped__)
    monkeypatch.setattr(compiler, "torch_can_compile", compiler.torch_can_compile.__wrapped__)


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_cxx_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler.find_compiler() is None and not compiler.torch_can_compile()
    usual, own = executable(tmp_path / "c++", "exit 1"), executable(tmp_path / "own", "exit 1")
    assert compiler.find_compiler() == usual
    monkeypatch.setenv("CXX", own)
    assert compiler.find_compiler() == own
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert compiler.find_compiler() == usual


def test_a_compiler_that_fails_is_none_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one without Python's headers."""
    monkeypatch.setenv("CXX", executable(tmp_path / "c++", "exit 1"))
    assert not compiler.torch_can_compile()


def test_compiled_functions_run_without_a_compiler(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from model.compiler import prepare_torch_compile\n"
        "before = torch.compile(lambda x: 2 * x)\n"
        "assert not prepare_torch_compile() and not prepare_torch_compile()\n"
        "after = torch.compile(lambda x: 2 * x, fullgraph=True)\n"
        "print(before(torch.ones(3)).tolist(), after(torch.ones(1)).tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[2.0, 2.0, 2.0] [2.0]\n"
    assert result.stderr.count("no C++ compiler found") == 1

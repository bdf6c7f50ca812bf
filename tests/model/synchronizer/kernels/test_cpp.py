from __future__ import annotations

import logging
from pathlib import Path

import pytest

from model.synchronizer.kernels import cpp


def test_without_a_compiler_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpp, "find_compiler", lambda: None)
    with caplog.at_level(logging.WARNING):
        assert cpp.build(tmp_path) is None
    assert "no C++ compiler found" in caplog.text


def test_a_compiler_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(cpp, "find_compiler", lambda: str(broken))
    with caplog.at_level(logging.WARNING):
        assert cpp.build(tmp_path) is None
    assert "no headers" in caplog.text

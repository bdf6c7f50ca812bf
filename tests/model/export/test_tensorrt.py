"""Targets, and what is said if the library is missing."""

from __future__ import annotations

import pytest

from model.export import tensorrt


def test_targets() -> None:
    assert tensorrt.parse_targets("rtx", ["8.6", "12.0"]) == ["SM86", "SM120"]
    with pytest.raises(ValueError, match=r"9\.0 is not a target"):
        tensorrt.parse_targets("rtx", ["9.0"])
    with pytest.raises(ValueError, match="no targets"):
        tensorrt.parse_targets("standard", ["8.6"])


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt._MODULES, "rtx", ("no_such_module", "nor_this"))
    with pytest.raises(tensorrt.LibraryMissing, match="no-such-module"):
        tensorrt.library("rtx")

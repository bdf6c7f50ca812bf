"""Targets, and what is said if the library is missing."""

from __future__ import annotations

import pytest
import torch

from model.export import tensorrt


def test_targets() -> None:
    assert tensorrt.parse_targets("rtx", ["8.6", "12.0"]) == ["SM86", "SM120"]
    for target in ("9.0", "current"):
        with pytest.raises(ValueError, match=rf"{target} is not a target .*own GPU \(none\)"):
            tensorrt.parse_targets("rtx", [target])
    with pytest.raises(ValueError, match="no targets"):
        tensorrt.parse_targets("standard", ["8.6"])


def test_an_unlisted_gpu_is_a_target_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert tensorrt.parse_targets("rtx", ["9.0", "current", "8.9"]) == ["SM90", "SM90", "SM89"]
    with pytest.raises(ValueError, match=r"10\.0 is not a target .*own GPU \(SM90\)"):
        tensorrt.parse_targets("rtx", ["10.0"])


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt._MODULES, "rtx", ("no_such_module", "nor_this"))
    with pytest.raises(tensorrt.LibraryMissing, match="no-such-module"):
        tensorrt.library("rtx")

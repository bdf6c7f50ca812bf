"""Which engines are chosen. Running them needs a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from model.engine.image.backends.base import BackendUnavailable
from model.engine.image.backends.tensorrt import fits, select
from model.export import tensorrt
from model.export.manifest import CompileKey, Manifest


def manifest(**changes: object) -> Manifest:
    """The manifest of engines that could be there."""
    key = CompileKey(
        model_digest="model",
        backend="tensorrt",
        flavour="rtx",
        targets=("SM86", "SM89"),
        library_version=tensorrt.version("rtx"),
        precision="float16",
        buckets=(1,),
    )
    return Manifest(dataclasses.replace(key, **changes), 8, {})


def test_engines_fit_by_capability_and_library() -> None:
    assert fits(manifest(), (8, 9))
    assert not fits(manifest(), (9, 0))
    assert not fits(manifest(library_version="0.1"), (8, 9))
    assert not fits(manifest(flavour="standard", targets=()), (9, 0))  # not installed here


def test_selection_takes_the_newest_that_fits(tmp_path: Path) -> None:
    for index, changes in enumerate(({"buckets": (1, 2)}, {"targets": ("SM75",)})):
        entry = manifest(**changes)
        place = tmp_path / entry.key.digest
        place.mkdir()
        entry.save(place)
        assert index < 2
    assert select(tmp_path, "model", (8, 9))[1].key.buckets == (1, 2)
    with pytest.raises(BackendUnavailable, match="no engine fits"):
        select(tmp_path, "model", (9, 0))
    with pytest.raises(BackendUnavailable, match="none"):
        select(tmp_path, "another", (8, 9))
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        select(tmp_path, "model", None)

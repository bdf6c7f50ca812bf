"""A manifest says what was compiled from what, and notices changed files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from model.export.manifest import (
    CompiledGraph,
    CompileKey,
    Manifest,
    TensorSpec,
    find,
    graph_digest,
    model_digest,
)

KEY = CompileKey("model", "onnxruntime", "", (), "", "float32", (1, 4))


def manifest(directory: Path) -> Manifest:
    """Of one graph whose weights lie beside it."""
    path = directory / "decode-1.onnx"
    path.write_bytes(b"graph")
    path.with_name("decode-1.onnx.data").write_bytes(b"weights")
    spec = TensorSpec.of("latents", torch.zeros(1, 4, 8, 8, dtype=torch.float16))
    graph = CompiledGraph(path.name, graph_digest(path), 12, 0.5, (spec,), ())
    return Manifest(KEY, 8, {"decode-1": graph})


def test_saved_and_loaded(tmp_path: Path) -> None:
    saved = manifest(tmp_path)
    saved.save(tmp_path)
    assert Manifest.load(tmp_path) == saved
    assert saved.graphs["decode-1"].inputs[0] == TensorSpec("latents", (1, 4, 8, 8), "float16")


@pytest.mark.parametrize("name", ["decode-1.onnx", "decode-1.onnx.data"])
def test_changed_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    saved = manifest(tmp_path)
    saved.verify(tmp_path)
    (tmp_path / name).write_bytes(b"changed")
    with pytest.raises(ValueError, match="not what was compiled"):
        saved.verify(tmp_path)
    (tmp_path / "decode-1.onnx").unlink()
    with pytest.raises(ValueError, match="is missing"):
        saved.verify(tmp_path)


def test_finished_graphs_are_found_by_their_whole_key(tmp_path: Path) -> None:
    place = tmp_path / KEY.digest
    place.mkdir()
    assert find(tmp_path, KEY) is None
    saved = manifest(place)
    saved.save(place)
    assert find(tmp_path, KEY) == (place, saved)
    another = dataclasses.replace(KEY, buckets=(1,))
    assert find(tmp_path, another) is None
    place.rename(tmp_path / another.digest)
    assert find(tmp_path, another) is None


def test_a_checkpoint_is_its_configuration_and_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = model_digest(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    assert model_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert model_digest(tmp_path) != before

"""The TensorRT phase: its rehearsal by ONNX Runtime, and failures as results."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.bench.gpu import engines
from model.bench.gpu.recorder import Recorder, read
from model.export import tensorrt
from tests.model.engine.jobs import small_checkpoint


def recorder(directory: Path, rehearsal: bool) -> Recorder:
    path = directory / "results.jsonl"
    return Recorder("tensorrt", path, "here", rehearsal, directory / "model", directory / "cache")


@pytest.mark.slow
def test_the_rehearsal_builds_compares_and_times(tmp_path: Path) -> None:
    small_checkpoint(tmp_path / "model")
    engines.run(recorder(tmp_path, rehearsal=True))
    built, engine = read(tmp_path / "results.jsonl")
    assert set(built["mib"]) == {"prepare-1", "denoise-1", "decode-1"}
    assert engine["difference"] < 1e-4
    assert engine["ms"] > 0 and engine["torch_ms"] > 0


def test_a_missing_library_and_a_missing_card_are_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(flavour: str) -> str:
        if flavour == "standard":
            raise tensorrt.LibraryMissing("needs the package 'tensorrt'")
        return "1.7"

    monkeypatch.setattr(tensorrt, "version", version)
    small_checkpoint(tmp_path / "model")
    engines.run(recorder(tmp_path, rehearsal=False))
    whats = {(row["flavour"], row["what"]) for row in read(tmp_path / "results.jsonl")}
    assert whats == {("rtx", "library"), ("rtx", "failed"), ("standard", "skipped")}

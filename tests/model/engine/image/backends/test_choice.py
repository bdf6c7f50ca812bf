"""What `auto` stands for, and what happens when a backend can't be used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from model.engine.image.backends import choice
from model.engine.image.backends.base import BackendUnavailable
from model.engine.image.backends.choice import fastest, load_backend, make_backend
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.options import ImageEngineOptions
from model.export.parity import ParityError
from tests.model.engine.jobs import small_checkpoint


def options(**changes: object) -> ImageEngineOptions:
    return ImageEngineOptions(Path("model"), "auto", "cpu", "float32", **changes)  # type: ignore[arg-type]


def test_auto_on_a_cpu() -> None:
    assert fastest(options()) == "onnxruntime"
    assert fastest(options(compiled=True)) == "torch"
    assert fastest(ImageEngineOptions(Path("model"), "auto", "cpu", "bfloat16")) == "torch"


def test_auto_on_a_gpu_takes_engines_only_if_there_are_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = small_checkpoint(tmp_path / "model")
    on_gpu = ImageEngineOptions(checkpoint, "auto", "cuda", engines=tmp_path / "engines")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert fastest(on_gpu) == "torch"
    monkeypatch.setattr("model.engine.image.backends.tensorrt.select", lambda *_: None)
    assert fastest(on_gpu) == "tensorrt"


def test_without_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    assert fastest(options()) == "torch"
    with pytest.raises(BackendUnavailable, match="onnxscript"):
        make_backend(ImageEngineOptions(Path("model"), "onnxruntime"))


class Broken:
    """A backend whose numbers are wrong."""

    def start(self) -> None:
        raise ParityError("denoise-1: absolute error 1.0")


def test_wrong_numbers_fall_back_loudly_or_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = small_checkpoint(tmp_path / "model")
    make = choice.make_backend

    def broken(wanted: ImageEngineOptions) -> object:
        return Broken() if wanted.backend == "onnxruntime" else make(wanted)

    monkeypatch.setattr(choice, "make_backend", broken)
    asked = ImageEngineOptions(checkpoint, "auto", "cpu", "float32")
    backend, reason = load_backend(asked)
    assert isinstance(backend, TorchBackend)
    assert "denoise-1" in reason
    assert "onnxruntime is not used" in caplog.text
    with pytest.raises(ParityError):
        load_backend(ImageEngineOptions(checkpoint, "auto", "cpu", "float32", fallback=False))

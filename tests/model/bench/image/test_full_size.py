"""The full-size benchmarks, on a model of small sizes."""

from __future__ import annotations

import pytest

from model.bench.image import full_size
from model.config.presets import preset


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "preset", lambda name: preset("tiny"))


@pytest.mark.slow
def test_every_variant_is_timed_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = full_size.step_on_cpu()
    assert set(seconds) == {
        "official", "ours", "ours_prepare", "ours_grid_sample", "ours_grid_sample_prepare",
        "ours_onnxruntime",
    }  # fmt: skip
    assert min(seconds.values()) > 0
    assert "ours_onnxruntime" in capsys.readouterr().out


@pytest.mark.gpu
def test_every_variant_agrees_with_the_published_step_on_the_gpu() -> None:
    numbers = full_size.steps_on_gpu(["torch"], batches=(1,))
    assert {"peak_tflops", "batch_1_ms", "torch_1_ms"} <= set(numbers)
    assert numbers["torch_1_difference"] < 0.05

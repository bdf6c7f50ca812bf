"""The image phases, rehearsed at small sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.bench.gpu import image
from model.bench.gpu.recorder import Recorder, read
from tests.model.engine.jobs import small_config


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    monkeypatch.setattr(image, "preset", lambda _: small_config())
    return Recorder("image", tmp_path / "results.jsonl", "here", True, tmp_path, tmp_path)


def test_every_variant_and_kernel_is_a_line(recorder: Recorder) -> None:
    image.run_eager(recorder)
    rows = list(read(recorder.path))
    assert {(row["variant"], row["batch"]) for row in rows if row["what"] == "step"} == {
        (variant, batch) for variant in ("batch", "torch") for batch in (1, 2)
    }
    assert sum(row["what"] == "kernel" for row in rows) == 2 * 10
    step = next(row for row in rows if row.get("variant") == "torch")
    assert step["difference_from_eager_with_other_inputs"] == 0
    assert 0 < step["difference_from_float32"] < 1e-4
    assert step["images_per_s"] == pytest.approx(step["steps_per_s"] / 30, rel=0.01)
    assert all(row["rehearsal"] and row["device"] == "here" for row in rows)

"""Every phase of the report, on the CPU at small sizes, as before each run on a card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model.bench.gpu.recorder import read
from service.bench.gpu.command import PHASES


@pytest.mark.slow
@pytest.mark.needs_compiler
@pytest.mark.timeout(3600)
def test_every_phase_comes_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--rehearse", "--limit-s", "0", "--out", str(out), "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "service", "bench", "gpu", *words]
    subprocess.run(command, check=True)
    rows = list(read(out / "results.jsonl"))
    assert not [row for row in rows if row["what"] == "failed"]
    assert [row["phase"] for row in rows if row["what"] == "done"] == [p.name for p in PHASES]
    stories = [row for row in rows if row["phase"] == "service" and "completed" in row]
    assert all(row["completed"] == row["number"] for row in stories)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.cli import main


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--requests", "2", "--tokens", "5", "--streams", "5", "--concurrency", "1", "2"]
    assert main(["bench", "gateway", *arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["completed_streams"] == 5
    assert figures["refused_429"] == figures["with_retry_after"] == figures["asked"] == 200
    assert figures["added_first_token_ms at 1"] > 0

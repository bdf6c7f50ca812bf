"""The text phases run the benchmarks of the text stage; what these report becomes results."""

from __future__ import annotations

import json
from pathlib import Path

from model.bench.gpu.recorder import Recorder, read
from service.bench.gpu import text


def test_a_benchmark_that_fails_is_a_result(tmp_path: Path) -> None:
    recorder = Recorder("text", tmp_path / "results.jsonl", "here", True, tmp_path, tmp_path)
    text._bench(recorder, "parity", ["text", "--no-such-option"])
    (row,) = read(recorder.path)
    assert (row["what"], row["command"]) == ("failed", "text --no-such-option")
    assert "--no-such-option" in row["output"]


def test_rows_lose_their_long_columns(tmp_path: Path) -> None:
    document = tmp_path / "speed.json"
    document.write_text(json.dumps({"results": [{"batch": 1, "token_ids": [[1, 2]]}]}))
    assert text._rows(document) == [{"batch": 1}]

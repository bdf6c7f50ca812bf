"""The text phases run the benchmarks of the text stage; what these report becomes results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from model.bench.gpu.recorder import Recorder
from service.bench.gpu import text
from service.bench.gpu.text import Bench


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder("text", tmp_path / "results.jsonl", "here", True, tmp_path, tmp_path)


def test_a_benchmark_that_fails_is_a_result_and_runs_again(recorder: Recorder) -> None:
    bench = Bench("parity", ["text", "--no-such-option"])
    for times in (1, 2):
        with pytest.raises(RuntimeError, match="text --no-such-option"):
            text._run(recorder, [bench])
        rows = recorder.rows()
        assert [row["what"] for row in rows] == ["failed"] * times
        assert rows[-1]["command"] == "text --no-such-option"
        assert "--no-such-option" in rows[-1]["output"]


def test_a_benchmark_that_has_its_result_runs_once(recorder: Recorder) -> None:
    words = ["sampling", "--preset", "tiny", "--tokens", "1", "--kernel", "torch"]
    bench = Bench("kernels", [*words, "--dtype", "float32"], {"OMP_NUM_THREADS": "1"})
    for _ in range(2):
        text._run(recorder, [bench])
        (row,) = recorder.rows()
        assert (row["what"], row["kernel"], row["OMP_NUM_THREADS"]) == ("kernels", "torch", "1")


def test_speed_is_told_as_a_share_of_stock(recorder: Recorder) -> None:
    for variant, speed in (("stock", 40.0), ("ours", 36.0)):
        recorder.note("speed", variant=variant, batch=8, decode_tokens_per_s=speed)
    text._note_shares(recorder)
    last = recorder.rows()[-1]
    assert (last["what"], last["batch"], last["decode_share"]) == ("of stock", 8, 0.9)


def test_float32_is_compared_without_tf32(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card: every way has its number type, model runner and environment."""
    ran: list[Bench] = []
    monkeypatch.setattr(text, "_run", lambda _, benches: ran.extend(benches))
    text.run_parity(dataclasses.replace(recorder, rehearsal=False))
    ways = {bench.command.partition("--dtype ")[2]: bench.environment for bench in ran[1:]}
    assert set(ways) == {
        "bfloat16 --runner 2 --compile", "float32 --runner 2", "bfloat16 --runner 1"
    }  # fmt: skip
    assert [way for way, environment in ways.items() if environment] == ["float32 --runner 2"]
    assert ways["float32 --runner 2"]["TRITON_F32_DEFAULT"] == "ieee"


def test_rows_lose_their_long_columns(tmp_path: Path) -> None:
    document = tmp_path / "speed.json"
    document.write_text(json.dumps({"results": [{"batch": 1, "token_ids": [[1, 2]]}]}))
    assert text._rows(document) == [{"batch": 1}]

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from model.bench.gpu.recorder import Recorder, read


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    path = tmp_path / "deep" / "results.jsonl"
    return Recorder("text", path, "a card", False, tmp_path, tmp_path)


def test_a_result_says_whose_it_is_and_when_it_came(recorder: Recorder) -> None:
    recorder.note("speed", tokens_per_s=40.5)
    [row] = recorder.rows()
    assert row.pop("at_s") >= 0
    assert row == {
        "phase": "text", "what": "speed", "tokens_per_s": 40.5,
        "device": "a card", "rehearsal": False,
    }  # fmt: skip


def test_rows_are_those_of_the_phase_and_the_machine(recorder: Recorder) -> None:
    for other in ({"phase": "image"}, {"device": "another card"}, {"rehearsal": True}):
        dataclasses.replace(recorder, **other).note("speed")
    recorder.note("done")
    assert [(row["what"], row["rehearsal"]) for row in recorder.rows()] == [
        ("speed", True), ("done", False),
    ]  # fmt: skip


def test_a_result_is_in_the_file_at_once(recorder: Recorder) -> None:
    for number in range(3):
        recorder.note("step", number=number)
        lines = recorder.path.read_text().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(number + 1))


def test_a_line_that_was_cut_off_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"what": "done"}) + '\n{"what": "do')
    assert list(read(path)) == [{"what": "done"}]
    assert list(read(tmp_path / "none")) == []

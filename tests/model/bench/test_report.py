from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.bench.report import Report, print_table


def test_the_table_has_one_row_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"name": lambda r: r[0], "ms": lambda r: f"{r[1]:.1f}"}, [("a", 1.25), ("b", 2)])
    text = capsys.readouterr().out
    assert text.index("name") < text.index("1.2") < text.index("b") < text.index("2.0")


def test_the_document_names_the_machine_and_its_load(tmp_path: Path) -> None:
    report = Report(threads=3)
    report.write(None, {"results": []})
    report.write(tmp_path / "new" / "report.json", {"results": [1.5]})
    document = json.loads((tmp_path / "new" / "report.json").read_text())
    assert document["threads"] == 3 and document["results"] == [1.5]
    assert "cores" in document["machine"]
    assert len(document["load_average_before"]) == len(document["load_average_after"]) == 3

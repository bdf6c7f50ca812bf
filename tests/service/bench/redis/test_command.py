from __future__ import annotations

import json
from pathlib import Path

from service.cli import main


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "redis.json"
    load = ["--clients", "4", "--processes", "1", "--seconds", "10"]
    shape = ["--tokens", "2", "--images", "1", "--step", "0"]
    assert main(["bench", "redis", *load, *shape, "--out", str(out)]) == 0
    [row] = json.loads(out.read_text())["loads"]
    assert row["stories_per_s"] > 0
    assert row["commands_per_story"] > 10
    assert row["saturates_at_stories_per_s"] > row["stories_per_s"]

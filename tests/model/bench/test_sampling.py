from __future__ import annotations

import argparse
import json
from pathlib import Path

from model.bench import sampling


def test_each_kernel_is_measured_at_each_size(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sampling.add_arguments(parser)
    out = tmp_path / "sampling.json"
    arguments = ["--preset", "tiny", "--tokens", "1", "2", "--dtype", "float32", "--images", "2"]
    arguments += ["--kernel", "torch", "--json", str(out)]
    assert sampling.run(parser.parse_args(arguments)) == 0
    rows = json.loads(out.read_text())["results"]
    assert [(row["kernel"], row["tokens"]) for row in rows] == [("torch", 1), ("torch", 2)]
    assert all(row["ms"] > 0 and row["speedup"] == 1 for row in rows)
    assert all(row["difference"] < 1e-5 for row in rows)

"""The command converts, and reports errors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from model.checkpoint.convert.command import add_arguments, run
from tests.model.checkpoint.convert.official_files import read_all


def test_command_reports_errors_and_succeeds(layout: Path, tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(tmp_path), str(tmp_path / "out")])) == 1
    assert run(parser.parse_args([str(layout), str(tmp_path / "out"), "--dtype", "float16"])) == 0
    tensors = read_all(tmp_path / "out")
    assert tensors["soi_token"].dtype == torch.float16
    assert json.loads((tmp_path / "out/manifest.json").read_text())["files"]

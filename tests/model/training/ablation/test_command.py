"""Every variant is trained once and scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.training.ablation.variants import VARIANTS
from service.cli import main

ROOT = Path(__file__).parents[4]


_SHORT = """
start = "{start}"
text_seeds = [0]
picture_seeds = [0]
word_steps = 1
num_scenes = 8
num_stories = 2
text_steps = 1
text_batch_size = 2
picture_steps = 1
picture_batch_size = 2
num_questions = 16
num_held_out_stories = 1
num_inference_steps = 1
"""


@pytest.mark.slow
def test_command_writes_a_table_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(_SHORT.format(start=ROOT / "deploy" / "checkpoints" / "tiny"))
    command = ["train", "ablation", "--config", str(path), "--runs", str(tmp_path)]
    assert main(command) == 0
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "short").glob("*/*/scores.json")}
    assert len(finished) == 2 + len(VARIANTS)  # Of text with and without, and of images.
    table = json.loads((tmp_path / "short" / "ablation.json").read_text())
    assert table.keys() == {variant.name for variant in VARIANTS}
    for scores in table.values():
        assert scores["detail question"]["examples"] == 16
        assert scores["hero kept"]["seeds"] == 1
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())

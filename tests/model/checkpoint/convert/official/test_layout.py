"""Directories are found in any arrangement."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint.convert.from_official import ConvertOptions, convert
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent


def test_everything_in_one_directory(tmp_path: Path) -> None:
    """Shards beside the language model's own configuration and tokenizer."""
    root = official.write_layout(tmp_path / "in", golden.state_dict(), golden.config())
    for path in (*root.rglob("pytorch_model*"), *(root / "assets/lmsys/vicuna").iterdir()):
        path.rename(root / path.name)
    official.write_settings(root / "mm_inference.yaml", golden.config())
    convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert_same(read_all(tmp_path / "out"), golden.state_dict())

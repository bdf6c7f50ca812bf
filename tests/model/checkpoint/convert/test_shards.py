"""Shards of the official format are read, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from model.checkpoint import store
from model.checkpoint.convert.from_official import ConvertOptions, convert
from model.checkpoint.store import CheckpointError
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent


def test_code_in_a_shard_is_refused(layout: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/pwned",)

    torch.save({"soi_token": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        convert(tmp_path, tmp_path / "out", ConvertOptions(), silent)
    assert not (tmp_path / "pwned").exists()


def test_older_shard_format_is_read(tmp_path: Path) -> None:
    state = golden.state_dict()
    root = official.write_layout(tmp_path / "in", state, golden.config(), num_shards=1)
    official.write_settings(root / "mm_inference.yaml", golden.config())
    shard = next(root.rglob("pytorch_model-*.bin"))
    torch.save(dict(state), shard, _use_new_zipfile_serialization=False)
    convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert_same(read_all(tmp_path / "out"), state)
    assert (tmp_path / "out" / store.WEIGHTS).is_file()

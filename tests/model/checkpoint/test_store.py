"""Damage to a checkpoint directory is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoint import store
from model.checkpoint.store import CheckpointError


def test_damage_is_found(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / store.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / store.WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"model\.safetensors differs"):
        store.verify(tmp_path)
    (tmp_path / store.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        store.verify(tmp_path)
    with pytest.raises(CheckpointError, match="has neither"):
        store.weight_map(tmp_path)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        store.load_config(tmp_path / "nowhere")

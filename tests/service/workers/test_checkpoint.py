"""Which checkpoint is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoint.shipped import SHIPPED
from service.config import LocalSettings
from service.workers import checkpoint
from service.workers.checkpoint import choose_checkpoint


def test_a_given_checkpoint_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMI_CHECKPOINT", str(tmp_path / "named"))
    assert choose_checkpoint(tmp_path, tmp_path / "cache") == tmp_path
    named = LocalSettings().checkpoint
    assert choose_checkpoint(named, tmp_path / "cache") == tmp_path / "named"


def test_otherwise_the_shipped_one_is_taken(tmp_path: Path) -> None:
    assert choose_checkpoint(None, tmp_path) == SHIPPED
    assert (SHIPPED / "config.json").is_file()


def test_where_nothing_is_shipped_one_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "none")
    made = choose_checkpoint(None, tmp_path / "cache")
    stamp = (made / "manifest.json").stat().st_mtime_ns
    assert choose_checkpoint(None, tmp_path / "cache") == made
    assert (made / "manifest.json").stat().st_mtime_ns == stamp

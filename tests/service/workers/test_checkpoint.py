"""Which checkpoint is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoint import shipped
from model.checkpoint.shipped import CHAT, TINY, default_checkpoint
from service.config import LocalSettings
from service.workers import checkpoint
from service.workers.checkpoint import choose_checkpoint, find_checkpoint


def test_a_given_checkpoint_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMI_CHECKPOINT", str(tmp_path / "named"))
    assert find_checkpoint(tmp_path, tmp_path / "cache") == tmp_path
    assert choose_checkpoint(tmp_path, tmp_path / "cache") == tmp_path
    named = LocalSettings().checkpoint
    assert choose_checkpoint(named, tmp_path / "cache") == tmp_path / "named"


def test_a_system_takes_the_chat_model_if_it_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_checkpoint(None, tmp_path) == default_checkpoint() == CHAT
    assert find_checkpoint(None, tmp_path) == TINY
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_checkpoint(None, tmp_path) == default_checkpoint() == TINY


def test_where_nothing_is_shipped_one_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "CHAT", tmp_path / "chat")
    for module in (shipped, checkpoint):
        monkeypatch.setattr(module, "TINY", tmp_path / "tiny")
    made = choose_checkpoint(None, tmp_path / "cache")
    stamp = (made / "manifest.json").stat().st_mtime_ns
    assert find_checkpoint(None, tmp_path / "cache") == made
    assert (made / "manifest.json").stat().st_mtime_ns == stamp

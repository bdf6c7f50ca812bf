"""Compiled code is found again by what it depends on, and by nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch

from model.engine.image.steps.cache import CompileCache, cache_key
from tests.model.engine.jobs import small_config

CPU = torch.device("cpu")


def test_a_key_depends_on_code_sizes_type_buckets_and_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_config()
    first = cache_key(config, CPU, torch.float32, [1, 8])
    assert first == cache_key(dataclasses.replace(config, name="x"), CPU, torch.float32, [8, 1])
    larger = dataclasses.replace(config.image_decoder, image_size=64)
    others = [
        cache_key(config, CPU, torch.bfloat16, [1, 8]),
        cache_key(config, CPU, torch.float32, [1]),
        cache_key(dataclasses.replace(config, image_decoder=larger), CPU, torch.float32, [1, 8]),
    ]
    monkeypatch.setattr(torch, "__version__", "0")
    others.append(cache_key(config, CPU, torch.float32, [1, 8]))
    assert len({first, *others}) == 5


def test_damaged_files_are_not_given_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[bytes] = []
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"code", None))
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", lambda x: loaded.append(x) or 1)
    cache = CompileCache(tmp_path / "new", "key")
    assert not cache.load()
    cache.save()
    assert cache.load()
    assert loaded == [b"code"]
    cache.path.write_bytes(hashlib.sha256(b"code").digest() + b"evil")
    assert not cache.load()
    assert loaded == [b"code"]
    assert "damaged" in caplog.text


def test_a_full_disk_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"code", None))
    (tmp_path / "file").write_text("")
    CompileCache(tmp_path / "file" / "cache", "key").save()
    assert "not kept" in caplog.text

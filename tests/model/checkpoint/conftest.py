"""What the tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoint import seeded
from model.checkpoint.convert.from_official import ConvertOptions, convert
from tests.model import golden
from tests.model.checkpoint import small_llama
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import silent


@pytest.fixture(scope="session")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random language model."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    small_llama.write(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint; tests only read it."""
    return seeded.create("tiny", tmp_path_factory.mktemp("seeded") / "tiny")


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded tensors in the official layout; tests only read it."""
    root = tmp_path_factory.mktemp("official")
    official.write_layout(root, golden.state_dict(), golden.config())
    official.write_settings(root / "mm_inference.yaml", golden.config())
    return root


@pytest.fixture(scope="session")
def converted(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted; tests only read it."""
    target = tmp_path_factory.mktemp("converted")
    convert(layout, target, ConvertOptions(), silent)
    return target

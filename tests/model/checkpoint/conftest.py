"""What the tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.checkpoint import small_llama


@pytest.fixture(scope="session")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random language model."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    small_llama.write(path)
    return path

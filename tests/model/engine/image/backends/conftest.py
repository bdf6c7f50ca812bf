"""Exporting graphs takes a while: once for all modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.engine.jobs import small_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of exported graphs."""
    return tmp_path_factory.mktemp("engines")

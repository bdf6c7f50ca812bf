from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.engine.jobs import small_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")

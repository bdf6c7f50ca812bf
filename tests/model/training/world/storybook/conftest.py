from __future__ import annotations

from pathlib import Path

import pytest

from model.training.world.storybook.assets import packages


@pytest.fixture(scope="session")
def storybook_packages() -> Path:
    """Both packages, fetched at the first run."""
    packages.fetch()
    return packages.DEFAULT_FOLDER

"""The packages are verified before they are unpacked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.training.world.storybook.assets import packages
from model.training.world.storybook.assets.packages import PANORAMAS, SPRITES, AssetError
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storybook_packages")]


def test_every_noun_and_place_has_its_file(storybook_packages: Path) -> None:
    sprites = {
        p.stem.removesuffix("-fe0f") for p in (storybook_packages / SPRITES.directory).iterdir()
    }
    assert {noun.code for noun in NOUNS.values()} <= sprites
    for place in PLACES.values():
        assert (storybook_packages / PANORAMAS.directory / f"{place.panorama}.exr.js").is_file()


def test_a_package_of_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "SPRITES", replace(SPRITES, sha256="0" * 64))
    monkeypatch.setattr(packages, "PANORAMAS", replace(PANORAMAS, sha256="0" * 64))
    with pytest.raises(AssetError, match="pinned is 0000"):
        packages.fetch(tmp_path)
    assert not packages.available(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_npm_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="npm is needed"):
        packages.fetch(tmp_path)

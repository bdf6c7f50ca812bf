"""The two npm packages of the storybook world: fetch, verify, unpack once.

Nothing of them is part of this repository; NOTICE names their licences.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python 3.11.2, which Debian 12 has, knows no filters; the packages are checked by their hashes.
_FILTERED: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
DEFAULT_FOLDER = Path.home() / ".cache" / "mmi" / "storybook"


class AssetError(RuntimeError):
    """A package cannot be fetched, or differs from the pinned one."""


@dataclass(frozen=True)
class Package:
    """A pinned npm package.

    Attributes:
        name: npm's name.
        version: the pinned version.
        sha256: hash of the tarball.
        folder: the folder inside the package that is unpacked.
    """

    name: str
    version: str
    sha256: str
    folder: str

    @property
    def directory(self) -> str:
        """Name of the unpacked directory; another version gets another one."""
        return f"{self.name.rpartition('/')[2]}-{self.version}"


PANORAMAS = Package(
    "@pmndrs/assets",
    "1.7.0",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    "hdri",
)
SPRITES = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "assets",
)


def available(folder: Path = DEFAULT_FOLDER) -> bool:
    """Whether both packages are unpacked."""
    return all((folder / package.directory).is_dir() for package in (PANORAMAS, SPRITES))


def fetch(folder: Path = DEFAULT_FOLDER) -> None:
    """Fetch and unpack what is missing.

    Raises:
        AssetError: npm is missing or fails, or a tarball has another hash than the pinned one.
    """
    for package in (PANORAMAS, SPRITES):
        if not (folder / package.directory).is_dir():
            _fetch_one(package, folder)


def _fetch_one(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError("npm is needed to fetch the storybook world: apt-get install npm")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        tarballs = list(Path(scratch).glob("*.tgz"))
        if result.returncode or len(tarballs) != 1:
            raise AssetError(f"npm cannot fetch {package.name}: {result.stderr.strip()[-500:]}")
        _verify(tarballs[0], package)
        with tarfile.open(tarballs[0]) as archive:
            archive.extractall(scratch, **_FILTERED)
        # One rename, so that an interrupted run leaves nothing half unpacked.
        (Path(scratch) / "package" / package.folder).rename(folder / package.directory)


def _verify(tarball: Path, package: Package) -> None:
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise AssetError(
            f"{package.name} {package.version} has sha256 {digest}, pinned is {package.sha256}"
        )

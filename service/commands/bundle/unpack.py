"""Unpack a bundle of `mmi bundle`. Copied beside the parts; needs nothing but Python 3.11 and pip.

usage: python3 unpack.py [--parts DIR] --into DIR

Every part is checked against its hash and kept in `DIR/parts`; once all have come, they are
unpacked to `DIR/project`, `DIR/checkpoints` and `DIR/site` (the packages), and `DIR/mmi` runs the
program. Exit status: 0 complete, 1 a part is damaged or the packages can't be installed, 2 parts
are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

# Python 3.11.2, which Debian 12 has, knows no filters; the parts are checked by their hashes.
_FILTERED: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
FORMAT = 1
MANIFEST = "manifest.json"
_LAUNCHER = """#!/bin/sh
# Runs `mmi`; `. {into}/environment` makes `python` find the packages.
. '{into}/environment'
exec '{python}' -m service "$@"
"""
_ENVIRONMENT = """export PYTHONPATH='{into}/project:{into}/site'
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export MMI_CHECKPOINT="${{MMI_CHECKPOINT:-{checkpoint}}}"
"""


class Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = list(paths)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                if not self._paths:
                    return 0
                self._file = self._paths.pop(0).open("rb")
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def collect(source: Path, kept: Path, parts: list[dict[str, Any]]) -> list[str]:
    """Keep the parts that are in `source`; returns the names of those still missing.

    Raises:
        ValueError: a part does not match its hash.
    """
    kept.mkdir(parents=True, exist_ok=True)
    missing = []
    for part in parts:
        place, given = kept / part["name"], source / part["name"]
        if given.is_file() and not place.is_file():
            if _digest(given) != part["sha256"]:
                raise ValueError(f"{given} is damaged: copy it again")
            shutil.copy(given, place.with_suffix(".partial"))
            place.with_suffix(".partial").rename(place)
        if not place.is_file():
            missing.append(part["name"])
    return missing


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(kept: Path, parts: list[dict[str, Any]], into: Path) -> None:
    """Unpack all parts, each of which is checked once more.

    Raises:
        ValueError: a part has changed since it came.
    """
    paths = [kept / part["name"] for part in parts]
    for path, part in zip(paths, parts, strict=True):
        if _digest(path) != part["sha256"]:
            path.unlink()
            raise ValueError(f"{path} is damaged and has been deleted: copy it again")
    for name in ("project", "wheels", "checkpoints"):
        shutil.rmtree(into / name, ignore_errors=True)
    with (
        io.BufferedReader(Joined(paths)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        archive.extractall(into, **_FILTERED)


def python_with_pip() -> str:
    """This Python, or the base of its virtual environment: either may lack pip.

    Raises:
        ValueError: neither has it.
    """
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        command = [python, "-m", "pip", "--version"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return python
    raise ValueError(f"{sys.executable} has no pip: install python3-pip")


def install(into: Path) -> None:
    """Install the wheels, and write what runs the program.

    Raises:
        subprocess.CalledProcessError: pip can't install them.
        ValueError: there is no pip.
    """
    wheels = [str(path) for path in sorted((into / "wheels").glob("*.whl"))]
    site = into / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    if wheels:
        command = [python_with_pip(), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--disable-pip-version-check", "--root-user-action=ignore"]
        subprocess.run([*command, "--no-compile", "--target", str(site), *wheels], check=True)
    checkpoint = next(iter(sorted((into / "checkpoints").glob("*"))), "")
    values = {"into": into, "python": sys.executable, "checkpoint": checkpoint}
    (into / "environment").write_text(_ENVIRONMENT.format(**values))
    (into / "mmi").write_text(_LAUNCHER.format(**values))
    (into / "mmi").chmod(0o755)


def main(arguments: list[str]) -> int:
    """Unpack what has come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args(arguments)
    into = args.into.resolve()
    manifest = json.loads((args.parts / MANIFEST).read_text())
    if manifest["format"] != FORMAT:
        sys.stderr.write(f"this program unpacks format {FORMAT}, not {manifest['format']}\n")
        return 1
    try:
        if missing := collect(args.parts, into / "parts", manifest["parts"]):
            sys.stderr.write(f"still missing: {', '.join(missing)}\n")
            return 2
        extract(into / "parts", manifest["parts"], into)
        install(into)
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"complete: {into / 'mmi'} --help\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from service.commands.bundle.pack import pack


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The bundle of a checkout of two files, in parts of 10 KB."""
    root, wheels, checkpoint = tmp_path / "root", tmp_path / "wheels", tmp_path / "model"
    for directory in (root / "service", root / "tests" / "data", wheels, checkpoint / "deep"):
        directory.mkdir(parents=True)
    (root / "service" / "code.py").write_text("A = 1\n")
    (root / "tests" / "data" / "large.bin").write_text("not needed")
    (checkpoint / "deep" / "weights").write_bytes(bytes(range(256)) * 100)
    with zipfile.ZipFile(wheels / "small_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_thing.py", "VALUE = 7\n")
        folder = "small_thing-1.0.dist-info"
        wheel.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: small-thing\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{folder}/RECORD", "")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    out = tmp_path / "bundle"
    parts = pack(out, 10_000, wheels, [checkpoint], root)
    assert len(parts) > 3
    assert max(part.stat().st_size for part in parts) == 10_000
    return out

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from service.commands.bundle.pack import Parts, add_arguments, pack, parse_size, pins


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a file that git ignores; empty folders of wheels and of a checkpoint."""
    root = tmp_path / "root"
    for folder in (root, tmp_path / "wheels", tmp_path / "model"):
        folder.mkdir()
    (root / "code.py").write_text("A = 1\n")
    (root / "secret").write_text("not for others")
    (root / ".gitignore").write_text("secret\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def packed(checkout: Path, out: Path, part_bytes: int = 1 << 20) -> list[Path]:
    beside = checkout.parent
    return pack(out, part_bytes, beside / "wheels", [beside / "model"], checkout)


def test_equal_files_make_an_equal_bundle_without_a_trace_of_this_machine(
    checkout: Path, tmp_path: Path
) -> None:
    [first] = packed(checkout, tmp_path / "first")
    os.utime(checkout / "code.py", (1, 1))
    [second] = packed(checkout, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        entries = archive.getmembers()
    assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {(0, 0, "", "", 0)}
    names = {entry.name for entry in entries}
    assert "project/code.py" in names and "project/secret" not in names


def test_a_bundle_replaces_a_longer_one(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert len(packed(checkout, out, 1000)) > 2
    [only] = packed(checkout, out)
    assert sorted(out.glob("bundle.*")) == [only]
    manifest = json.loads((out / "manifest.json").read_text())
    digest = hashlib.sha256(only.read_bytes()).hexdigest()
    size = only.stat().st_size
    assert manifest["parts"] == [{"name": only.name, "bytes": size, "sha256": digest}]


def test_a_checkpoint_that_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "model").rmdir()
    with pytest.raises(FileNotFoundError, match=f"no checkpoint {tmp_path / 'model'}"):
        packed(checkout, tmp_path / "bundle")


def test_checkpoints_of_one_name_are_refused_before_the_old_bundle_goes(
    checkout: Path, tmp_path: Path
) -> None:
    old = packed(checkout, tmp_path / "bundle")
    (tmp_path / "other" / "model").mkdir(parents=True)
    twice = [tmp_path / "model", tmp_path / "other" / "model"]
    with pytest.raises(ValueError, match="same name"):
        pack(tmp_path / "bundle", 1 << 20, tmp_path / "wheels", twice, checkout)
    assert all(part.is_file() for part in old)


def test_parts_are_full_but_the_last_and_none_is_empty(tmp_path: Path) -> None:
    with Parts(tmp_path, 4) as stream:
        for data in (b"ab", b"cdefghi", b"", b"jkl"):
            assert stream.write(data) == len(data)
    assert [(part["name"], part["bytes"]) for part in stream.written] == [
        (f"bundle.00{number}", 4) for number in range(3)
    ]
    joined = b"".join((tmp_path / str(part["name"])).read_bytes() for part in stream.written)
    assert joined == b"abcdefghijkl"


def test_pins_are_those_of_the_other_machine(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# a comment\ntorch==2.13.0\nold==1.0 ; python_full_version < '3.12'\n"
        "new==2.0 ; python_full_version >= '3.12'\nPy_Yaml==6.0\n"
    )
    kept = pins(lock, "3.12", ["torch", "py-yaml"])
    assert kept == ["new==2.0"]


def test_sizes() -> None:
    assert (parse_size("48MiB"), parse_size("1000"), parse_size("1GiB")) == (
        48 << 20,
        1000,
        1 << 30,
    )
    for wrong in ("48MB", "0", "-1", "x"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(wrong)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([]).part_size == 48 << 20

"""`mmi bundle`: pack wheels, project and checkpoints into parts with hashes.

The result is a directory of `manifest.json`, `unpack.py` and `bundle.000`, `bundle.001`, ...: a tar
stream cut into parts of at most `--part-size`. On the other machine `unpack.py` needs nothing but
Python; parts may arrive one at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from model.checkpoint.shipped import SHIPPED
from service.commands.bundle import unpack

_DISTRIBUTION = "mm-interleaved-serving"
_LOCK = Path("deploy/requirements/worker-gpu.txt")
# Large, and given by `--checkpoint` or not needed to serve.
_LEFT_OUT = ("deploy/checkpoints/", "tests/data/")
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Of the wheels that run on a current Linux; pip matches a tag exactly.
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)


def parse_size(text: str) -> int:
    """Bytes of `48MiB` or `1000000`.

    Raises:
        argparse.ArgumentTypeError: it is no size.
    """
    match = re.fullmatch(r"(\d+)([KMG]iB)?", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 48MiB")
    return int(match[1]) * _UNITS[match[2] or ""]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bundle`."""
    parser.add_argument("--out", type=Path, default=Path("out/bundle"))
    parser.add_argument("--part-size", type=parse_size, default="48MiB", metavar="SIZE")
    parser.add_argument("--lock", type=Path, default=_LOCK, help="the packages, as pins")
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument(
        "--present", nargs="+", default=[], metavar="PACKAGE", help="what the machine has already"
    )
    parser.add_argument("--wheels", type=Path, help="take these wheels instead of downloading")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[SHIPPED])


def run(args: argparse.Namespace) -> int:
    """Pack; 0 if everything could be found."""
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        try:
            wheels = args.wheels or _download(args, Path(directory))
            parts = pack(args.out, args.part_size, wheels, args.checkpoint)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
    size = sum(part.stat().st_size for part in parts)
    text = f"{args.out}: {len(parts)} parts, {size / 2**20:.0f} MiB, for Python {args.python}"
    console.print(text, highlight=False)
    return 0


def pack(
    out: Path, part_bytes: int, wheels: Path, checkpoints: Sequence[Path], root: Path | None = None
) -> list[Path]:
    """Write a bundle, replacing an older one; returns its parts.

    Args:
        out: directory of the bundle.
        part_bytes: size of a part at most.
        wheels: directory of wheels.
        checkpoints: directories, each packed as `checkpoints/NAME`.
        root: the checkout; by default the one this program runs from.
    """
    root = root or Path(__file__).resolve().parents[3]
    for checkpoint in checkpoints:
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    if len({checkpoint.name for checkpoint in checkpoints}) < len(checkpoints):
        raise ValueError("two checkpoints have the same name")
    for old in out.glob("bundle.*"):
        old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    with Parts(out, part_bytes) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for path, name in _files(root, wheels, checkpoints):
            archive.add(path, name, recursive=False, filter=_plain)
        for name, text in _metadata():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    manifest = {"format": unpack.FORMAT, "parts": stream.written}
    (out / unpack.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.copy(str(unpack.__file__), out / "unpack.py")
    return [out / str(part["name"]) for part in stream.written]


class Parts(io.RawIOBase):
    """A file to write to, which is cut into parts; `written` lists name, size and hash of each."""

    def __init__(self, directory: Path, part_bytes: int) -> None:
        self._directory, self._part_bytes = directory, part_bytes
        self._buffer = bytearray()
        self.written: list[dict[str, str | int]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= self._part_bytes:
            self._cut(self._part_bytes)
        return len(data)

    def close(self) -> None:
        if self._buffer:
            self._cut(len(self._buffer))
        super().close()

    def _cut(self, size: int) -> None:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        name = f"bundle.{len(self.written):03d}"
        (self._directory / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        self.written.append({"name": name, "bytes": size, "sha256": digest})


def _files(root: Path, wheels: Path, checkpoints: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Every file, and its place in the bundle."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in sorted(filter(None, listed.split("\0"))):
        if not name.startswith(_LEFT_OUT) and (root / name).is_file():
            yield root / name, f"project/{name}"
    for wheel in sorted(wheels.glob("*.whl")):
        yield wheel, f"wheels/{wheel.name}"
    for checkpoint in checkpoints:
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file():
                yield path, f"checkpoints/{checkpoint.name}/{path.relative_to(checkpoint)}"


def _metadata() -> Iterator[tuple[str, bytes]]:
    """What tells vLLM of our plugin: the project's installed metadata, beside its source."""
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    folder = f"{_DISTRIBUTION.replace('-', '_')}-{distribution.version}.dist-info"
    for name in ("METADATA", "entry_points.txt"):
        if text := distribution.read_text(name):
            yield f"project/{folder}/{name}", text.encode()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of this machine: neither owner nor time."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _download(args: argparse.Namespace, directory: Path) -> Path:
    """Wheels of the locked packages that the machine lacks."""
    wanted = directory / "wanted.txt"
    wanted.write_text("\n".join(pins(args.lock, args.python, args.present)) + "\n")
    wheels = directory / "wheels"
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    command = [unpack.python_with_pip(), "-m", "pip", "download", "--quiet", "--no-deps"]
    command += [
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        args.python,
        *platforms,
    ]
    subprocess.run([*command, "--dest", str(wheels), "--requirement", str(wanted)], check=True)
    return wheels


def pins(lock: Path, python: str, present: Sequence[str]) -> list[str]:
    """The lock's pins for a version of Python, without the packages that are present."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    left_out = {canonicalize_name(name) for name in present}
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    kept = []
    for line in lock.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        requirement = Requirement(text)
        fits = requirement.marker is None or requirement.marker.evaluate(environment)
        if fits and canonicalize_name(requirement.name) not in left_out:
            # Without the condition, which pip would ask of the Python that it runs in.
            kept.append(text.partition(";")[0].strip())
    return kept

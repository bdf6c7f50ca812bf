"""Installing a lock: pip's configuration, the build of PyTorch, what an image leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import installer


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    installer.pip_settings.cache_clear()


def test_pip_configuration_reaches_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = """
:env:.cert='/ca.pem'
global.cert='/other.pem'
global.extra-index-url='\\nhttps://b.example/simple\\nhttps://c.example/simple'
global.find-links='/wheels\\n/more'
global.index-url='https://a.example/simple'
global.progress-bar='off'
install.index-url='https://d.example/simple'
"""
    monkeypatch.setattr(installer, "pip", lambda *_: listed)

    assert installer.pip_settings() == {
        "SSL_CERT_FILE": "/ca.pem",
        "UV_DEFAULT_INDEX": "https://d.example/simple",
        "UV_INDEX": "https://b.example/simple https://c.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
    }


def test_uv_settings_override_those_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_as_uv(tmp_path, monkeypatch, 'echo "$UV_FIND_LINKS $SSL_CERT_FILE $UV_INDEX_STRATEGY"')
    monkeypatch.setattr(
        installer, "pip", lambda *_: "global.find-links='/pip'\nglobal.cert='/ca.pem'\n"
    )
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("UV_FIND_LINKS", "/uv")

    result = installer.uv("version", capture_output=True, text=True)

    assert result.stdout == "/uv /ca.pem unsafe-best-match\n"


@pytest.mark.parametrize(
    ("answers", "installed"),
    [
        ("torch==*+cpu*", "--no-deps torch=={v}+cpu"),
        ("--torch-backend*", "--no-deps --torch-backend cpu torch=={v}"),
        ("nothing", "torch=={v}"),
    ],
)
def test_the_cpu_build_of_torch_is_preferred(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    answers: str,
    installed: str,
) -> None:
    pip_install = 5  # words before the packages: pip install --python VENV --no-deps
    use_as_uv(
        tmp_path,
        monkeypatch,
        f'case "$*" in *--dry-run) shift {pip_install}; '
        f'case "$*" in {answers}) exit 0;; esac; exit 1;; esac; echo "uv: $*"',
    )

    installer.install_torch("torch==1.0", ("pip", "install", "--python", "VENV"))

    output = capfd.readouterr()
    expected = f"uv: pip install --python VENV {installed.format(v='1.0')}"
    assert output.out.splitlines() == [expected]
    assert ("CUDA build" in output.err) == (answers == "nothing")


def use_as_uv(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script on PATH in place of uv."""
    (folder / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_an_image_leaves_out_what_the_layer_below_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use_as_uv(tmp_path, monkeypatch, 'echo "uv: $*"')
    lock, below = tmp_path / "worker.txt", tmp_path / "below.txt"
    lock.write_text("torch==1\nnumpy==2\ntriton==3\nvllm==4\n")
    below.write_text("torch==1\nnumpy==2\n")

    installer.install_lock(lock, ("--target", "/opt/text"), below, without=["triton"])

    assert capfd.readouterr().out == (
        "uv: pip install --directory / --target /opt/text --no-deps vllm==4\n"
    )


def test_a_lock_with_cuda_takes_its_own_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use_as_uv(tmp_path, monkeypatch, 'echo "uv: $*"')
    lock = tmp_path / "gpu.txt"
    lock.write_text("nvidia-cublas==1\ntorch==2\n")

    installer.install_lock(lock, ("--python", "VENV"))

    assert capfd.readouterr().out == (
        "uv: pip install --directory / --python VENV --no-deps nvidia-cublas==1 torch===2\n"
    )

"""The lock for GPUs is installed as it is; what it holds is imported and configured.

Downloads about 3.5 GB and takes 9 GB of disk while it runs.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from deploy.installer import install_lock, uv
from model.checkpoint import seeded
from model.vllm_plugin.registration import SCHEDULER, SLOT_PENALTIES

pytestmark = [pytest.mark.slow, pytest.mark.needs_compiler, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def run(*command: str | Path) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def install(directory: Path, python: str) -> Path:
    """A virtual environment with the lock and the project; returns its interpreter."""
    uv("venv", "--quiet", "--python", python, directory)
    place = ("--python", directory)
    install_lock(ROOT / "deploy" / "requirements" / "worker-gpu.txt", place)
    uv("pip", "install", "--directory", "/", *place, "--no-deps", "--no-build-isolation", ROOT)
    return directory / "bin" / "python"


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_serves_a_card(python: str, tmp_path: Path) -> None:
    interpreter = install(tmp_path / "venv", python)
    driver = tmp_path / "libcuda.so.1"
    run("cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", HERE / "driver.c", "-o", driver)
    seeded.create("tiny", tmp_path / "tiny")
    script = (HERE / "configure.py", driver, tmp_path / "tiny", tmp_path / "cache")
    found = json.loads(run(interpreter, *script).splitlines()[-1])
    assert found["platform"] == "cuda" and found["runner"] == 2
    assert found["dtype"] == "torch.bfloat16"
    assert 0.8 < found["share"] <= 0.92
    assert found["scheduler"] == SCHEDULER
    assert found["logits_processors"] == [SLOT_PENALTIES]
    assert "mmi::sample_images" in found["graphs_are_split_at"]
    assert f"python{python}" in run(interpreter, "-c", "import torch; print(torch.__file__)")

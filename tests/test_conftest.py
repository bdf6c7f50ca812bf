"""The suite without some programs and below the floors of coverage, shown on one of three tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for package in ("service", "model"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "sign.py").write_text(
            "def sign(x):\n    if x < 0:\n        return -1\n    return 1\n"
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_signs.py").write_text(
        "import pytest\nimport model.sign, service.sign\n"
        "def test_service():\n    assert service.sign.sign(1) == 1\n"
        "    assert service.sign.sign(-1) == -1\n"
        "@pytest.mark.needs_compiler\n"
        "def test_model():\n    assert model.sign.sign(1) == 1\n"
        "@pytest.mark.needs_kubectl\n"
        "def test_manifests():\n    assert service.sign.sign(0) == 1\n"
    )
    return tmp_path


def run(suite: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the suite with no program on PATH."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("COV")}
    environment = {**inherited, "PYTHONPATH": str(suite), "CI": "", "PATH": str(suite), **variables}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=suite, env=environment, capture_output=True, text=True, check=False
    )


def test_tests_whose_program_is_missing_are_counted(suite: Path) -> None:
    result = run(suite)

    *_, compiler, kubectl, counts = result.stdout.splitlines()
    assert result.returncode == 0
    assert compiler.startswith("1 tests were skipped: they need a C++ compiler")
    assert kubectl == "1 tests were skipped: they need kubectl"
    assert "1 passed, 2 skipped" in counts


def test_ci_requires_them(suite: Path) -> None:
    assert "3 passed" in run(suite, CI="true").stdout.splitlines()[-1]


def test_coverage_below_a_floor_fails_the_run(suite: Path) -> None:
    result = run(suite, "--cov", "--cov-report=", CI="true")

    *_, service, model, counts = result.stdout.splitlines()
    assert result.returncode == 1
    assert service == "branch coverage of service/: 100.0 % (at least 90 %)"
    assert model == "branch coverage of model/: 66.7 % (at least 85 %)"
    assert "3 passed" in counts


def test_only_the_floors_of_measured_packages_hold(suite: Path) -> None:
    result = run(suite, "--cov=service", "--cov-report=", CI="true")

    *_, service, counts = result.stdout.splitlines()
    assert result.returncode == 0
    assert service == "branch coverage of service/: 100.0 % (at least 90 %)"
    assert "3 passed" in counts


def test_coverage_above_the_floors_passes(suite: Path) -> None:
    test = suite / "tests" / "test_signs.py"
    test.write_text(test.read_text() + "    assert model.sign.sign(-1) == -1\n")

    assert run(suite, "--cov", "--cov-report=", CI="true").returncode == 0


def test_without_a_card_tests_that_need_one_are_skipped(suite: Path) -> None:
    text = "import pytest\n@pytest.mark.gpu\ndef test_card():\n    raise AssertionError\n"
    (suite / "tests" / "test_card.py").write_text(text)
    result = run(suite, "-m", "gpu", "-rs", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0
    assert "PyTorch finds no CUDA device" in result.stdout
    assert "1 skipped" in result.stdout.splitlines()[-1]

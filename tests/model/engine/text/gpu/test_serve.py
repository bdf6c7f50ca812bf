"""vLLM's GPU worker and both of its model runners, through our engine, on CPU tensors.

vLLM's Triton kernels run in Triton's interpreter; nothing here shows their speed, or that a card
computes the same. Each model runner has a process of its own, since a process is on one
platform.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.model.engine.text.gpu import outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNNERS = (1, 2)
CAPABILITIES = ("80", "90", "120")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpu")
    outcome.small_checkpoint(directory / "checkpoint")
    return directory


@cache
def served(runner: int, directory: Path) -> outcome.Outcome:
    """What a model runner gave; see `serve.py`."""
    return outcome.served(directory / "checkpoint", directory / str(runner), runner, "interpreted")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("check", outcome.CHECKS)
def test_the_engine_serves_what_the_plain_model_computes(
    runner: int, check: outcome.Check, directory: Path
) -> None:
    check(served(runner, directory), runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_kernel_of_the_path_compiles(runner: int, directory: Path) -> None:
    """For Ampere, Hopper and Blackwell; by Triton's compiler and ptxas, which need no card."""
    served(runner, directory)
    module = "tests.model.engine.text.gpu.launches"
    launches = directory / str(runner) / "launches.jsonl"
    result = subprocess.run(
        [sys.executable, "-m", module, launches, *CAPABILITIES], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-4000:]
    compiled = {json.loads(line).rpartition(":")[2] for line in result.stdout.splitlines()}
    assert {"kernel_unified_attention", "reshape_and_cache_kernel_flash"} <= compiled


def test_both_model_runners_give_the_same(directory: Path) -> None:
    first, second = (served(runner, directory) for runner in RUNNERS)
    assert first["whole"] == second["whole"]
    assert first["tokens"] == second["tokens"]

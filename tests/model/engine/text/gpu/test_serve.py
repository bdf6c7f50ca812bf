"""vLLM's GPU worker and both of its model runners, through our engine, on CPU tensors.

vLLM's Triton kernels run in Triton's interpreter; nothing here shows their speed, or that a card
computes the same. Each model runner has a process of its own, since a process is on one
platform.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import seeded
from model.config.presets import preset
from tests.model.engine.text.gpu.serve import IMAGES, NUM_TOKENS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOLERANCE = 1e-3
RUNNERS = (1, 2)
CAPABILITIES = ("80", "90", "120")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a checkpoint with as little attention as shows something: the interpreter is slow."""
    directory, tiny = tmp_path_factory.mktemp("gpu"), preset("tiny")
    llm = replace(tiny.llm, num_hidden_layers=2, num_attention_heads=2)
    config = replace(tiny, llm=llm, cross_attention_frequency=1)
    seeded.create_from(config, directory / "checkpoint")
    return directory


@cache
def served(runner: int, directory: Path) -> dict[str, Any]:
    """What a model runner gave; see `serve.py`."""
    module = "tests.model.engine.text.gpu.serve"
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            module,
            directory / "checkpoint",
            directory / str(runner),
            str(runner),
        ],
        env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_engine_takes_the_path_of_a_gpu(runner: int, directory: Path) -> None:
    found = served(runner, directory)
    assert (found["platform"], found["runner"]) == ("cuda", runner)
    assert 0 < found["share"] == found["planned"] < 0.92


@pytest.mark.parametrize("runner", RUNNERS)
def test_greedy_tokens_and_logits_are_the_plain_models(runner: int, directory: Path) -> None:
    """0, 1, 3 and 8 images together, and a request whose prefix is in the cache."""
    found = served(runner, directory)
    assert found["num_tokens"] == [NUM_TOKENS] * (len(IMAGES) + 1)
    assert max(found["worst"]) < TOLERANCE
    assert found["cached"] > 32


@pytest.mark.parametrize("runner", RUNNERS)
def test_preempted_requests_go_on(runner: int, directory: Path) -> None:
    found = served(runner, directory)
    assert found["num_preempted"] > 0
    assert max(found["preempted"]) < TOLERANCE


@pytest.mark.parametrize("runner", RUNNERS)
def test_hidden_states_give_the_plain_models_image_tokens(runner: int, directory: Path) -> None:
    found = served(runner, directory)
    assert found["image_tokens"] < TOLERANCE * found["image_tokens_size"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_resumed_turn_pays_the_penalties_of_its_first_half(runner: int, directory: Path) -> None:
    found = served(runner, directory)
    half = len(found["whole"]) // 2
    assert half and found["resumed"] == found["whole"][half:]
    assert found["forgotten"][:half] != found["resumed"]
    assert found["without_penalties"] != found["whole"]


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

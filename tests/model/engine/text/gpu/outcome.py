"""What `serve.py` gave in a process of its own, and what must hold of it on any device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.checkpoint import seeded
from model.config.presets import preset
from tests.model.engine.text.gpu.serve import IMAGES, NUM_TOKENS

TOLERANCE = 1e-3

Outcome = dict[str, Any]
Check = Callable[[Outcome, int], None]


def small_checkpoint(directory: Path) -> None:
    """As little attention as shows something: Triton's interpreter is slow."""
    tiny = preset("tiny")
    llm = replace(tiny.llm, num_hidden_layers=2, num_attention_heads=2)
    seeded.create_from(replace(tiny, llm=llm, cross_attention_frequency=1), directory)


def served(checkpoint: Path, directory: Path, runner: int, way: str, **environment: str) -> Outcome:
    """Run `serve.py` with these arguments."""
    module = "tests.model.engine.text.gpu.serve"
    result = subprocess.run(
        [sys.executable, "-m", module, checkpoint, directory, str(runner), way],
        env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    document: Outcome = json.loads(result.stdout.splitlines()[-1])
    return document


def takes_the_path_of_a_gpu(found: Outcome, runner: int) -> None:
    assert (found["platform"], found["runner"]) == ("cuda", runner)
    assert 0 < found["share"] == found["planned"] < 0.92


def greedy_tokens_and_logits_are_the_plain_models(found: Outcome, _: int) -> None:
    """0, 1, 3 and 8 images together, and a request whose prefix is in the cache."""
    assert found["num_tokens"] == [NUM_TOKENS] * (len(IMAGES) + 1)
    assert max(found["worst"]) < TOLERANCE
    assert found["cached"] > 32


def preempted_requests_go_on(found: Outcome, _: int) -> None:
    assert found["num_preempted"] > 0
    assert max(found["preempted"]) < TOLERANCE


def hidden_states_give_the_plain_models_image_tokens(found: Outcome, _: int) -> None:
    assert found["image_tokens"] < TOLERANCE * found["image_tokens_size"]


def a_resumed_turn_pays_the_penalties_of_its_first_half(found: Outcome, _: int) -> None:
    half = len(found["whole"]) // 2
    assert half and found["resumed"] == found["whole"][half:]
    assert found["forgotten"][:half] != found["resumed"]
    assert found["without_penalties"] != found["whole"]


CHECKS: tuple[Check, ...] = (
    takes_the_path_of_a_gpu,
    greedy_tokens_and_logits_are_the_plain_models,
    preempted_requests_go_on,
    hidden_states_give_the_plain_models_image_tokens,
    a_resumed_turn_pays_the_penalties_of_its_first_half,
)

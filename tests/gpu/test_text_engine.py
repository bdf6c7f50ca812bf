"""The text engine on a card: the plain model's tokens, logits and image tokens, in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.model.engine.text.gpu import outcome

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

# No TF32, neither in NVIDIA's libraries nor in Triton's products: the tolerance is that of CPUs.
IEEE = {"NVIDIA_TF32_OVERRIDE": "0", "TRITON_F32_DEFAULT": "ieee"}
WAYS = ((2, "eager"), (1, "eager"), (2, "compiled"), (1, "compiled"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpu")
    outcome.small_checkpoint(directory / "checkpoint")
    return directory


@cache
def served(runner: int, way: str, directory: Path) -> outcome.Outcome:
    """What a model runner gave, compiled with CUDA graphs or not."""
    own = directory / f"{runner}-{way}"
    # Triton's cache does not tell the precisions of a product apart.
    caches = {"TRITON_CACHE_DIR": str(directory / "triton"), "VLLM_CACHE_ROOT": str(own / "vllm")}
    environment = IEEE | caches | {"VLLM_USE_V2_MODEL_RUNNER": str(runner - 1)}
    return outcome.served(directory / "checkpoint", own, runner, way, **environment)


@pytest.mark.parametrize(("runner", "way"), WAYS)
@pytest.mark.parametrize("check", outcome.CHECKS)
def test_the_engine_serves_what_the_plain_model_computes(
    runner: int, way: str, check: outcome.Check, directory: Path
) -> None:
    check(served(runner, way, directory), runner)

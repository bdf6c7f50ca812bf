"""Sampling parameters, which processes without any model package import too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from model.sampling_params import QUALITIES, ImageParams, SamplingParams


@pytest.mark.parametrize("module", ["model.sampling_params", "service.gateway.app"])
def test_no_model_package_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'vllm'}} & set(sys.modules)))"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    assert made.stdout.strip() == "[]"


def test_the_published_way_is_the_default_and_a_quality() -> None:
    params, published = ImageParams(), QUALITIES["reference"]

    assert (params.num_inference_steps, params.scheduler) == (published.steps, published.scheduler)
    assert SamplingParams().logit_bias == {}

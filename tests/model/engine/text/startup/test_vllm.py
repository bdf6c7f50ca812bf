"""How vLLM is started: what an engine needs of the machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch._dynamo

from model.compiler import DISABLING, find_compiler, prepare_torch_compile, torch_can_compile
from model.engine.protocol import TextDelta
from model.engine.text.engine import VllmTextEngine
from model.sampling_params import SamplingParams
from tests.model.engine.served import interleaved
from tests.model.without_compiler import environment

pytestmark = pytest.mark.asyncio(loop_scope="session")

_DECISIONS = (find_compiler, torch_can_compile, prepare_torch_compile)


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """This process and its children find no compiler until the test ends."""
    for variable in DISABLING:
        monkeypatch.setenv(variable, "0")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for decision in _DECISIONS:
        decision.cache_clear()
    with torch._dynamo.config.patch(disable=False):  # And restored afterwards.
        yield
    for decision in _DECISIONS:
        decision.cache_clear()


async def scored(engine: VllmTextEngine, sampling: SamplingParams, name: str) -> list[TextDelta]:
    turn = engine.generate(interleaved(14, (14,)), sampling, name, 16, "forbid")
    return [event async for event in turn if isinstance(event, TextDelta)]


@pytest.mark.slow
async def test_no_request_needs_a_compiler(
    engine: VllmTextEngine, no_compiler: None, tmp_path: Path
) -> None:
    """Scores, filters, penalties and seeds, in an engine that was asked to compile."""
    greedy = SamplingParams(temperature=0.0, logprobs=3)
    filtered = replace(greedy, temperature=1.0, seed=3, top_k=20, top_p=0.9, min_tokens=4)
    penalised = replace(greedy, repetition_penalty=1.3, presence_penalty=0.5, min_tokens=16)
    options = replace(engine.options, cache_dir=tmp_path / "cache", compile=True)
    other = VllmTextEngine(options)
    await other.start()
    assert [os.environ[variable] for variable in DISABLING] == ["1", "1"]
    try:
        for name, sampling in (("g", greedy), ("f", filtered), ("p", penalised)):
            ours = await scored(other, sampling, name)
            expected = await scored(engine, sampling, name)
            assert [d.token_ids for d in ours] == [d.token_ids for d in expected]
            for one, wanted in zip(ours, expected, strict=True):
                for score, reference in zip(one.scores, wanted.scores, strict=True):
                    assert score.token == reference.token
                    assert score.logprob == pytest.approx(reference.logprob, abs=1e-4)
    finally:
        await other.stop()

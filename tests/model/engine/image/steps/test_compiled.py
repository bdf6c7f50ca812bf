"""Blocks compiled in the background: the engine serves meanwhile, and afterwards by their code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.engine.image.backends.eager import TorchBackend
from model.engine.image.loop import DenoisingLoop
from model.engine.image.steps import compiled
from model.engine.image.steps.cache import CompileCache
from model.engine.image.steps.compiled import CompiledStep, compile_blocks, many_shapes
from model.image_decoder.unet.step import Blocks
from model.sampling_params import ImageParams
from model.synchronizer.kernels.grid import GridOperator
from tests.model.device.recorder import FakeGraphs
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
)

pytestmark = pytest.mark.usefixtures("tracing")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Compilation by tracing alone, which needs no C++ compiler; the graphs are counted."""
    counter, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile

    def traced(function: object, **options: object) -> object:
        return compile_(function, backend=counter, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(compiled.torch, "compile", traced)
    return counter


def step_of(backend: TorchBackend) -> CompiledStep:
    step = backend._step
    assert isinstance(step, CompiledStep)
    return step


def image(backend: TorchBackend, seed: int = 1) -> np.ndarray:
    loop = DenoisingLoop(backend, 2**40, 2**20)
    job, items = make_job(seed, ImageParams(num_inference_steps=3), conditioning_image(seed))
    loop.submit(job)
    drain(loop, items)
    return pixels_of(items)


def test_the_engine_serves_before_and_after(
    checkpoint: Path, counted: CompileCounterWithBackend, tmp_path: Path
) -> None:
    graphs = FakeGraphs()
    backend = TorchBackend(checkpoint, "cpu", warm_up=(1, 2), compiled_into=tmp_path, graphs=graphs)
    begin = CompiledStep.compile
    held: list[tuple[object, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledStep, "compile", lambda *given: held.append(given))
        backend.start()
    step = step_of(backend)
    before = image(backend)
    assert (step.ready, counted.frame_count) == (frozenset(), 0)
    begin(*held[0])  # type: ignore[arg-type]
    step.wait()
    assert {(shape[0][0], shape[1]) for shape in step.ready} == {(1, 2), (2, 4)}
    num_compiled, num_recorded = counted.frame_count, len(graphs.recorded)
    assert num_compiled > 0
    after = image(backend)
    assert np.abs(before - after).max() <= 1
    assert counted.frame_count == num_compiled  # This thread uses what the other has compiled.
    assert len(graphs.recorded) == num_recorded + 1  # The compiled step is recorded in its turn.
    backend.stop()


def test_equal_blocks_share_their_code(
    checkpoint: Path, counted: CompileCounterWithBackend
) -> None:
    backend = TorchBackend(checkpoint, "cpu", sampling=GridOperator())
    backend.start()
    sampler, calls = backend.sampler, {"resnet": 0, "layer": 0, "attend": 0}
    eager = Blocks.eager()

    def counting(name: str) -> object:
        def call(*given: object) -> object:
            calls[name] += 1
            return getattr(eager, name)(*given)

        return call

    sampler.blocks = Blocks(*(counting(name) for name in calls))  # type: ignore[arg-type]
    with torch.no_grad(), many_shapes():
        expected = sampler.predict(*backend.example(1))
        ours = compile_blocks(sampler).predict(*backend.example(1))
    assert (ours - expected).norm() / expected.norm() < 1e-5
    assert min(calls.values()) > 0
    assert 0 < counted.frame_count < sum(calls.values())


def test_code_that_computes_something_else_is_not_used(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def wrong(function: object, **_: object) -> object:
        return lambda *given: 1.01 * function(*given)  # type: ignore[operator]

    monkeypatch.setattr(compiled.torch, "compile", wrong)
    backend = TorchBackend(checkpoint, "cpu", compiled_into=tmp_path)
    backend.start()
    backend.finish_compiling()
    assert step_of(backend).ready == frozenset()
    assert "not used" in caplog.text
    image(backend)


def test_a_compiler_that_fails_leaves_the_engine_as_it_is(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def failing(function: object, **_: object) -> object:
        def call(*_: object) -> object:
            raise RuntimeError("no nvcc")

        return call

    monkeypatch.setattr(compiled.torch, "compile", failing)
    backend = TorchBackend(checkpoint, "cpu", compiled_into=tmp_path)
    backend.start()
    backend.finish_compiling()
    assert "no nvcc" in caplog.text
    assert not list(tmp_path.iterdir())
    image(backend)


@pytest.mark.slow
@pytest.mark.needs_compiler
@pytest.mark.timeout(1200)
def test_inductor_computes_what_the_eager_step_does_and_its_code_is_kept(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Compiled for real, with the largest differences that are allowed for float32."""
    backend = TorchBackend(checkpoint, "cpu", compiled_into=tmp_path)
    backend.start()
    backend.finish_compiling()
    assert len(step_of(backend).ready) == 1
    (kept,) = tmp_path.iterdir()
    torch.compiler.reset()
    cache = CompileCache(tmp_path, kept.stem.removeprefix("blocks-"))
    assert cache.load()
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    assert not cache.load()

"""Decode steps alone, by processor time: `mmi bench text --steps`.

The whole engine in one process and, for a fair count, best with one thread (`OMP_NUM_THREADS=1`).
Nothing waits for another process here, so the numbers hold on a machine that is busy with other
things, where the clock says little and vLLM's processes spin while they wait for each other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from model.bench.text_requests import Workload
from model.engine.text.options import TextEngineOptions

_WARM_UP_STEPS = 4


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Decode steps of a full batch; milliseconds."""

    variant: str
    batch: int
    cpu_median_ms: float
    cpu_min_ms: float
    wall_median_ms: float


def measure_steps(
    variants: Sequence[str],
    options: TextEngineOptions,
    workload: Workload,
    batches: Sequence[int],
    num_steps: int,
) -> list[StepTime]:
    """Each variant and batch size in a process of its own."""
    results = []
    for batch in batches:
        for variant in variants:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                job = pool.submit(_measure, variant, options, workload, batch, num_steps)
                results.append(job.result())
    return results


def _measure(
    variant: str, options: TextEngineOptions, workload: Workload, batch: int, num_steps: int
) -> StepTime:
    """Fill a batch, then time its decode steps."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with tempfile.TemporaryDirectory(prefix="mmi-stock-") as directory:
        engine = _engine(variant, options, workload, Path(directory))
        _submit(engine, variant, workload, batch, num_steps)
        full = 0
        while full < _WARM_UP_STEPS:
            full += len(engine.step()) == batch
        times = []
        for _ in range(num_steps):
            cpu, wall = time.process_time(), time.perf_counter()
            engine.step()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_times, wall_times = sorted(t[0] for t in times), sorted(t[1] for t in times)
    middle = num_steps // 2
    return StepTime(
        variant,
        batch,
        cpu_times[middle] * 1e3,
        cpu_times[0] * 1e3,
        wall_times[middle] * 1e3,
    )


def _engine(variant: str, options: TextEngineOptions, workload: Workload, directory: Path) -> Any:
    """A synchronous engine in this process."""
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from model.bench.text_served import stock_arguments
    from model.engine.text.vllm import engine_arguments

    if variant == "stock":
        arguments = stock_arguments(options, workload, directory)
    else:
        arguments = engine_arguments(options, workload.config)
    names = [field.name for field in dataclasses.fields(EngineArgs)]
    return LLMEngine.from_engine_args(EngineArgs(**{n: getattr(arguments, n) for n in names}))


def _submit(engine: Any, variant: str, workload: Workload, batch: int, num_steps: int) -> None:
    """Add a batch of requests that go on beyond the steps to be timed."""
    from model.bench.text_served import parameters, stock_input
    from model.engine.text.prompt import PromptBuilder, engine_input
    from model.engine.text.vllm import longest_sequence

    options = TextEngineOptions(Path())
    builder = PromptBuilder(
        workload.config, workload.processor, longest_sequence(options, workload.config)
    )
    # Requests begin one after another, so the first ones are ahead by as many steps.
    num_tokens = num_steps + _WARM_UP_STEPS + 8 * batch + 8
    params = parameters(num_tokens, workload.unwanted)
    for number, context in enumerate(workload.contexts(0, batch)):
        prompt = asyncio.run(builder.build(context, False, ()))
        stock = variant == "stock"
        inputs = stock_input(prompt, workload) if stock else engine_input(prompt, workload.config)
        engine.add_request(f"step-{number}", inputs, params)

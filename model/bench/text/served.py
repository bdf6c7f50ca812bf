"""Our engine, and stock vLLM with the same Llama, serving the same requests.

Batches run through the asynchronous engine with all its processes. Decode steps alone run the
synchronous engine in one process, best with one thread (`OMP_NUM_THREADS=1`): nothing waits for
another process, so their processor time holds on a busy machine too. There, wall time says little,
and the processes of vLLM spin while they wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm import AsyncEngineArgs, EngineArgs, SamplingParams
from vllm.inputs import TokensInput, tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from model.bench.processes import cpu_seconds, peak_memory_mib
from model.bench.text.result import ServedBatch, StepTime
from model.bench.text.workload import Workload
from model.checkpoint import load, store
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from model.engine.text.prompt import PromptBuilder, TurnPrompt, engine_input
from model.engine.text.startup.vllm import (
    engine_arguments,
    longest_sequence,
    prepare_vllm,
    stop_vllm,
)
from model.segments import Segment
from model.vllm_plugin.config import hugging_face_document

# vLLM's format of a checkpoint whose weights it makes itself, on the device.
RANDOM = "dummy"
_WARM_UP_STEPS = 4

Submit = Callable[[TurnPrompt, SamplingParams, str], AsyncIterator[RequestOutput]]


def parameters(num_tokens: int, unwanted: Sequence[int]) -> SamplingParams:
    """Greedy, exactly `num_tokens` tokens, none of them unwanted."""
    return SamplingParams(
        max_tokens=num_tokens,
        temperature=0.0,
        ignore_eos=True,
        logit_bias=dict.fromkeys(unwanted, -100.0),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


async def start_ours(options: TextEngineOptions, workload: Workload) -> VllmVariant:
    """Start vLLM with our plugin and arguments, at the level of stock vLLM's `generate`."""
    feed = partial(engine_input, config=workload.config)
    return await _start(engine_arguments(options, workload.config), feed, options, workload)


async def start_stock(
    options: TextEngineOptions, directory: Path, workload: Workload
) -> VllmVariant:
    """Start stock vLLM with the same Llama and prompt lengths, without a synchronizer."""
    feed = partial(stock_input, workload=workload)
    return await _start(stock_arguments(options, workload, directory), feed, options, workload)


async def _start(
    arguments: AsyncEngineArgs,
    feed: Callable[[TurnPrompt], Any],
    options: TextEngineOptions,
    workload: Workload,
) -> VllmVariant:
    """Start vLLM; `feed` makes its input of a prompt."""
    prepare_vllm(options)
    llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)

    def submit(
        prompt: TurnPrompt, params: SamplingParams, name: str
    ) -> AsyncIterator[RequestOutput]:
        return llm.generate(feed(prompt), params, name)

    return VllmVariant(submit, VllmTextEngine(options), workload, partial(stop_vllm, llm))


def stock_arguments(
    options: TextEngineOptions, workload: Workload, directory: Path
) -> AsyncEngineArgs:
    """The arguments of our engine, for the language model alone, written to `directory`."""
    arguments = engine_arguments(options, workload.config)
    write_llama(options, directory, arguments.dtype)
    return dataclasses.replace(
        arguments, model=str(directory), kv_transfer_config=None, limit_mm_per_prompt={}
    )


def stock_input(prompt: TurnPrompt, workload: Workload) -> TokensInput:
    """A prompt of the same length, with plain tokens in place of image tokens."""
    vocab, plain = workload.config.llm.vocab_size, workload.config.special_tokens.bos_token_id + 7
    return tokens_input([token if token < vocab else plain for token in prompt.token_ids])


def write_llama(options: TextEngineOptions, directory: Path, dtype: str) -> None:
    """Write the language model alone, in Hugging Face layout; weights if they are to be read."""
    config = store.load_config(options.checkpoint)
    document = hugging_face_document(config, dtype)
    document |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    del document["mm_interleaved"]
    (directory / "config.json").write_text(json.dumps(document))
    if options.vllm.get("load_format") == RANDOM:
        return
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load.iter_tensors(options.checkpoint, ("mm_decoder.", "text_decoder.")):
        if name == "text_decoder.head.weight":
            tensors["lm_head.weight"] = tensor
        elif name.startswith("mm_decoder.") and ".llama_cross_attn." not in name:
            tensors["model." + name.removeprefix("mm_decoder.")] = tensor
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class VllmVariant:
    """Sends batches, and records when tokens arrive."""

    def __init__(
        self,
        submit: Submit,
        engine: VllmTextEngine,
        workload: Workload,
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._submit, self._engine, self._stop = submit, engine, stop
        self._unwanted = workload.unwanted
        self._sent = 0
        self._without_token: set[int] = set()
        self._cpu_at_full_batch = 0.0

    async def stop(self) -> None:
        await self._stop()

    async def serve(self, contexts: Sequence[tuple[Segment, ...]], num_tokens: int) -> ServedBatch:
        """Serve one batch of requests; a batch of one is followed by a second turn."""
        start = time.perf_counter()
        prompts = [await self._engine.prompts.build(c, False, ()) for c in contexts]
        requests = (self._request(prompt, num_tokens) for prompt in prompts)
        outcomes = await asyncio.gather(*requests)
        arrivals, ids = [o[0] for o in outcomes], [o[1] for o in outcomes]
        cpu = cpu_seconds() - self._cpu_at_full_batch
        second = None
        if len(prompts) == 1:
            begin = time.perf_counter()
            times, _ = await self._request(prompts[0].extended((*ids[0], 5, 6, 7)), 2)
            second = times[0] - begin
        return ServedBatch(start, arrivals, ids, cpu, peak_memory_mib(), second)

    async def _request(self, prompt: TurnPrompt, num_tokens: int) -> tuple[list[float], list[int]]:
        """Send one request; returns the arrival times and the ids of its tokens."""
        self._sent += 1
        number = self._sent
        self._without_token.add(number)
        times: list[float] = []
        ids: list[int] = []
        outputs = self._submit(prompt, parameters(num_tokens, self._unwanted), f"bench-{number}")
        async with contextlib.aclosing(outputs) as stream:  # type: ignore[type-var]
            async for output in stream:
                new = output.outputs[0].token_ids
                if new and number in self._without_token:
                    self._without_token.remove(number)
                    if not self._without_token:
                        self._cpu_at_full_batch = cpu_seconds()
                times += [time.perf_counter()] * len(new)
                ids += new
        return times, ids


def measure_steps(
    variants: Sequence[str],
    options: TextEngineOptions,
    workload: Workload,
    batches: Sequence[int],
    num_steps: int,
) -> list[StepTime]:
    """Measure each variant and batch size in a process of its own."""
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
    from vllm.v1.engine.llm_engine import LLMEngine

    if variant == "stock":
        arguments = stock_arguments(options, workload, directory)
    else:
        arguments = engine_arguments(options, workload.config)
    names = [field.name for field in dataclasses.fields(EngineArgs)]
    return LLMEngine.from_engine_args(EngineArgs(**{n: getattr(arguments, n) for n in names}))


def _submit(engine: Any, variant: str, workload: Workload, batch: int, num_steps: int) -> None:
    """Add a batch of requests that outlast the timed steps."""
    options = TextEngineOptions(Path())
    builder = PromptBuilder(
        workload.config, workload.processor, longest_sequence(options, workload.config)
    )
    # Requests start one after another, so the first are some steps ahead.
    num_tokens = num_steps + _WARM_UP_STEPS + 8 * batch + 8
    params = parameters(num_tokens, workload.unwanted)
    for number, context in enumerate(workload.contexts(0, batch)):
        prompt = asyncio.run(builder.build(context, False, ()))
        stock = variant == "stock"
        inputs = stock_input(prompt, workload) if stock else engine_input(prompt, workload.config)
        engine.add_request(f"step-{number}", inputs, params)

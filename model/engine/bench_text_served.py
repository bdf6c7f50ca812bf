"""Our engine, and stock vLLM with the same Llama, under the same requests."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import TokensInput, tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from model.checkpoint import store
from model.engine.bench_text_requests import Workload
from model.engine.bench_text_result import Result, cpu_seconds
from model.engine.text import VllmTextEngine
from model.engine.text_launch import engine_arguments
from model.engine.text_options import TextEngineOptions
from model.engine.text_prompt import TurnPrompt
from model.vllm_plugin.config import hugging_face_document

Submit = Callable[[TurnPrompt, SamplingParams, str], AsyncIterator[RequestOutput]]

_OURS_ALONE = ("mm_interleaved",)


def parameters(num_tokens: int) -> SamplingParams:
    """Greedy, and exactly so many tokens."""
    return SamplingParams(
        max_tokens=num_tokens,
        temperature=0.0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


async def measure_ours(
    options: TextEngineOptions, workload: Workload, batches: Sequence[int], repeat: int
) -> list[Result]:
    """The text engine, without its event layer: the same entrance as stock vLLM's."""
    engine = VllmTextEngine(options)
    await engine.start()

    def submit(
        prompt: TurnPrompt, params: SamplingParams, name: str
    ) -> AsyncIterator[RequestOutput]:
        return engine.submit(prompt, params, name, 0)

    try:
        bench = ServedBench("ours", submit, engine, workload)
        return await bench.measure(batches, repeat)
    finally:
        await engine.stop()


async def measure_stock(
    options: TextEngineOptions,
    directory: Path,
    workload: Workload,
    batches: Sequence[int],
    repeat: int,
) -> list[Result]:
    """Stock vLLM's Llama: the same weights, arguments and prompt lengths, no synchronizer."""
    arguments = stock_arguments(options, workload, directory)
    llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)

    def submit(
        prompt: TurnPrompt, params: SamplingParams, name: str
    ) -> AsyncIterator[RequestOutput]:
        outputs: AsyncIterator[RequestOutput] = llm.generate(
            stock_input(prompt, workload), params, name
        )
        return outputs

    try:
        bench = ServedBench("stock", submit, VllmTextEngine(options), workload)
        return await bench.measure(batches, repeat)
    finally:
        llm.shutdown()


def stock_arguments(
    options: TextEngineOptions, workload: Workload, directory: Path
) -> AsyncEngineArgs:
    """Our engine's arguments, for the language model alone, which is written to `directory`."""
    write_llama(options, directory)
    return dataclasses.replace(
        engine_arguments(options, workload.config),
        model=str(directory),
        kv_transfer_config=None,
        limit_mm_per_prompt={},
        logits_processors=None,
    )


def stock_input(prompt: TurnPrompt, workload: Workload) -> TokensInput:
    """A prompt of the same length, with plain tokens in place of the images' tokens."""
    vocab, plain = workload.config.llm.vocab_size, workload.config.special_tokens.bos_token_id + 7
    return tokens_input([token if token < vocab else plain for token in prompt.token_ids])


def write_llama(options: TextEngineOptions, directory: Path) -> None:
    """The language model alone, in Hugging Face layout."""
    config = store.load_config(options.checkpoint)
    document = hugging_face_document(config, options.dtype)
    document |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    document = {k: v for k, v in document.items() if k not in _OURS_ALONE}
    (directory / "config.json").write_text(json.dumps(document))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in store.iter_tensors(options.checkpoint, ("mm_decoder.", "text_decoder.")):
        if name == "text_decoder.head.weight":
            tensors["lm_head.weight"] = tensor
        elif name.startswith("mm_decoder.") and ".llama_cross_attn." not in name:
            tensors["model." + name.removeprefix("mm_decoder.")] = tensor
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class ServedBench:
    """Sends batches and notes when tokens arrive."""

    def __init__(
        self, variant: str, submit: Submit, engine: VllmTextEngine, workload: Workload
    ) -> None:
        self.variant, self.submit, self.engine, self.workload = variant, submit, engine, workload
        self._sent = 0
        self._without_token: set[int] = set()
        self._cpu_at_full_batch = 0.0

    async def measure(self, batches: Sequence[int], repeat: int) -> list[Result]:
        """All batch sizes, each after a warm-up; the fastest of `repeat` runs."""
        results = []
        for batch in batches:
            await self._batch(await self._prompts(min(batch, 2)), 4)
            runs = [await self._run(batch) for _ in range(repeat)]
            results.append(max(runs, key=lambda run: run.decode_tokens_per_s))
        return results

    async def _run(self, batch: int) -> Result:
        """One batch of new requests; with a single one, a second turn behind it."""
        prompts = await self._prompts(batch)
        start = time.perf_counter()
        arrivals, ids = await self._batch(prompts, self.workload.num_tokens)
        cpu = cpu_seconds() - self._cpu_at_full_batch
        second = None
        if batch == 1:
            begin = time.perf_counter()
            times, _ = await self._request(prompts[0].extended((*ids[0], 5, 6, 7)), 2)
            second = (times[0] - begin) * 1e3
        return Result.of(self.variant, start, arrivals, cpu, second_turn_ttft_ms=second)

    async def _prompts(self, batch: int) -> list[TurnPrompt]:
        """New requests, encoded."""
        contexts = self.workload.contexts(batch)
        return [await self.engine.prompts.build(c, False, ()) for c in contexts]

    async def _batch(
        self, prompts: Sequence[TurnPrompt], num_tokens: int
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Requests at the same time: arrivals and ids of each."""
        outcomes = await asyncio.gather(*(self._request(p, num_tokens) for p in prompts))
        return [o[0] for o in outcomes], [o[1] for o in outcomes]

    async def _request(self, prompt: TurnPrompt, num_tokens: int) -> tuple[list[float], list[int]]:
        """One request: when its tokens arrived, and which they were."""
        self._sent += 1
        number = self._sent
        self._without_token.add(number)
        times: list[float] = []
        ids: list[int] = []
        outputs = self.submit(prompt, parameters(num_tokens), f"{self.variant}-{number}")
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

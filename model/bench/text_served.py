"""Our engine, and stock vLLM with the same Llama, under the same requests."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import TokensInput, tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from model.bench.text_requests import Workload
from model.bench.text_result import Run, cpu_seconds, peak_memory_mib
from model.checkpoint import load, store
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from model.engine.text.prompt import TurnPrompt
from model.engine.text.vllm import engine_arguments, stop_vllm
from model.segments import Segment
from model.vllm_plugin.config import hugging_face_document

Submit = Callable[[TurnPrompt, SamplingParams, str], AsyncIterator[RequestOutput]]

_OURS_ALONE = ("mm_interleaved",)


def parameters(num_tokens: int, unwanted: Sequence[int]) -> SamplingParams:
    """Greedy, and exactly so many tokens, none of them unwanted."""
    return SamplingParams(
        max_tokens=num_tokens,
        temperature=0.0,
        ignore_eos=True,
        logit_bias=dict.fromkeys(unwanted, -100.0),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


async def start_ours(options: TextEngineOptions, workload: Workload) -> ServedVariant:
    """The text engine, without its event layer: the same entrance as stock vLLM's."""
    engine = VllmTextEngine(options)
    await engine.start()

    def submit(
        prompt: TurnPrompt, params: SamplingParams, name: str
    ) -> AsyncIterator[RequestOutput]:
        return engine.submit(prompt, params, name, 0)

    return ServedVariant(submit, engine, workload, engine.stop)


async def start_stock(
    options: TextEngineOptions, directory: Path, workload: Workload
) -> ServedVariant:
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

    return ServedVariant(submit, VllmTextEngine(options), workload, partial(stop_vllm, llm))


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
    for name, tensor in load.iter_tensors(options.checkpoint, ("mm_decoder.", "text_decoder.")):
        if name == "text_decoder.head.weight":
            tensors["lm_head.weight"] = tensor
        elif name.startswith("mm_decoder.") and ".llama_cross_attn." not in name:
            tensors["model." + name.removeprefix("mm_decoder.")] = tensor
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class ServedVariant:
    """Sends batches and notes when tokens arrive."""

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
        """Stop the engine."""
        await self._stop()

    async def run(self, contexts: Sequence[tuple[Segment, ...]], num_tokens: int) -> Run:
        """One batch of requests; with a single one, a second turn behind it."""
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
        return Run(start, arrivals, ids, cpu, peak_memory_mib(), second)

    async def _request(self, prompt: TurnPrompt, num_tokens: int) -> tuple[list[float], list[int]]:
        """One request: when its tokens arrived, and which they were."""
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

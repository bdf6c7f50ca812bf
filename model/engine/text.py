"""The text engine: AsyncLLM with the MM-Interleaved plugin, embedded in this process.

A turn samples text until its end or the begin-of-image token. In the latter case a second request
of one token, whose prompt is the turn up to and including that token and hence nearly all in the
prefix cache, brings out the hidden states of the whole context, and they become image tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from vllm import AsyncEngineArgs
from vllm.config import KVTransferConfig
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from model.checkpoint import store
from model.engine.detokenizer import Detokenizer
from model.engine.protocol import Segment, TextDelta, TextEnd, TextSampling
from model.engine.text_options import TextEngineOptions
from model.engine.text_prompt import (
    PromptBuilder,
    TurnPrompt,
    engine_input,
    extraction_params,
    sampling_params,
)
from model.processor import Processor
from model.vllm_plugin.config import write_view
from model.vllm_plugin.hidden_states import PATH_KEY

logger = logging.getLogger(__name__)

_CONDITION = ("context_feat_proj", "image_decoder.perceiver_resampler")
_SHARED_MEMORY = Path("/dev/shm")


class VllmTextEngine:
    """`model.engine.protocol.TextEngine` on vLLM."""

    def __init__(self, options: TextEngineOptions) -> None:
        self.options = options
        self.config = store.load_config(options.checkpoint)
        self.tokenizer = store.load_tokenizer(options.checkpoint)
        self.max_len = options.max_model_len or min(
            self.config.seq_len, self.config.llm.max_position_embeddings
        )
        self.prompts = PromptBuilder(
            self.config, Processor(self.config, self.tokenizer), self.max_len
        )
        self._llm: AsyncLLM | None = None
        self._condition: torch.nn.Module | None = None
        self._exchange: Path | None = None

    async def start(self) -> None:
        """Start vLLM's processes, load the model and warm up."""
        self._condition = await asyncio.to_thread(
            store.load_model, self.options.checkpoint, _CONDITION
        )
        shared = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._exchange = Path(tempfile.mkdtemp(prefix="mmi-text-", dir=shared))
        self._llm = await asyncio.to_thread(self._start_vllm)
        await self._warm_up()

    async def stop(self) -> None:
        """Stop vLLM's processes and free their memory."""
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)
        if self._exchange is not None:
            shutil.rmtree(self._exchange, ignore_errors=True)
        self._condition = None

    async def generate(
        self,
        context: tuple[Segment, ...],
        sampling: TextSampling,
        request_id: str,
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        """Yield deltas, then exactly one `TextEnd`; see `TextEngine.generate`."""
        force = sampling.images == "force"
        prompt = await self.prompts.build(context, force, resume)
        turn = Turn(self, prompt, sampling, request_id, resume, priority)
        async with aclosing(turn.run()) as events:
            async for event in events:
                yield event

    def submit(
        self, prompt: TurnPrompt, params: Any, request_id: str, priority: int
    ) -> AsyncGenerator[RequestOutput, None]:
        """Hand a request to vLLM."""
        if self._llm is None:
            raise RuntimeError("the text engine is not running")
        inputs = engine_input(prompt, self.config)
        return self._llm.generate(inputs, params, request_id, priority=priority)

    async def image_tokens(
        self, prompt: TurnPrompt, request_id: str, priority: int
    ) -> tuple[torch.Tensor, RequestOutput]:
        """The image tokens [77, C] of a prompt that ends with begin-of-image."""
        assert self._exchange is not None
        name = hashlib.sha256(request_id.encode()).hexdigest()[:32]
        path = Path(tempfile.mkdtemp(prefix=name, dir=self._exchange)) / "hidden.safetensors"
        last: RequestOutput | None = None
        try:
            requests = self.submit(
                prompt, extraction_params(str(path)), f"{request_id}/image", priority
            )
            async with aclosing(requests) as outputs:
                async for output in outputs:
                    last = output
            assert last is not None
            tokens = await asyncio.to_thread(self._to_image_tokens, path)
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)
        return tokens, last

    @torch.inference_mode()
    def _to_image_tokens(self, path: Path) -> torch.Tensor:
        """Read hidden states, nearest first, as the image decoder's perceiver does."""
        model: Any = self._condition
        hidden_LD = load_file(path)[PATH_KEY].float()
        context_1LD = model.project_context(hidden_LD.flip(0).unsqueeze(0))
        tokens_TC: torch.Tensor = model.image_tokens(context_1LD)[0]
        return tokens_TC.float().clone()

    def _start_vllm(self) -> AsyncLLM:
        """Create the engine; its processes are up when this returns."""
        options = self.options
        digest = hashlib.sha256(str(options.checkpoint.resolve()).encode()).hexdigest()[:16]
        view = write_view(
            options.checkpoint,
            options.cache_dir / "vllm" / f"{digest}-{options.dtype}",
            options.dtype,
        )
        return AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(view),
                skip_tokenizer_init=True,
                dtype=options.dtype,
                max_model_len=self.max_len,
                max_num_seqs=options.max_num_seqs,
                max_num_batched_tokens=options.max_num_batched_tokens,
                kv_cache_memory_bytes=options.kv_cache_bytes,
                block_size=options.block_size,
                enable_prefix_caching=True,
                enforce_eager=not options.compile,
                scheduling_policy="priority",
                limit_mm_per_prompt={"image": self.config.max_images},
                mm_processor_cache_gb=0,
                kv_transfer_config=KVTransferConfig(
                    kv_connector="HiddenStatesConnector",
                    kv_connector_module_path="model.vllm_plugin.hidden_states",
                    kv_role="kv_producer",
                ),
                additional_config={
                    "kernel": options.kernel,
                    "cache_dir": str(options.cache_dir),
                    "encoder_cache_images": options.encoder_cache_images,
                },
                disable_log_stats=True,
            )
        )

    async def _warm_up(self) -> None:
        """Run a turn of two tokens, so that the first request finds everything loaded."""
        sampling = TextSampling(max_tokens=2, min_tokens=2, temperature=0.0, images="forbid")
        async for _ in self.generate((), sampling, "warm-up"):
            pass


class Turn:
    """One turn of text, from its prompt to its end."""

    def __init__(
        self,
        engine: VllmTextEngine,
        prompt: TurnPrompt,
        sampling: TextSampling,
        request_id: str,
        resume: tuple[int, ...],
        priority: int,
    ) -> None:
        self.engine, self.prompt, self.sampling = engine, prompt, sampling
        self.request_id, self.priority = request_id, priority
        self.resume = resume
        self.num_prompt = len(prompt.token_ids) - len(resume)
        self.num_cached = 0
        self.ids = list(resume)
        self.text = Detokenizer(
            engine.tokenizer.backend_tokenizer,
            prompt.token_ids[: self.num_prompt],
            sampling.stop,
            sampling.min_tokens,
        )
        self.text.feed(resume)

    async def run(self) -> AsyncGenerator[TextDelta | TextEnd, None]:
        """Sample, then end the turn."""
        if self.sampling.images == "force":
            yield await self._end_with_image()
            return
        special = self.engine.config.special_tokens
        if not self._ended():
            async with aclosing(self._deltas()) as deltas:
                async for delta in deltas:
                    yield delta
        last = self.ids[-1] if self.ids else None
        if last == special.soi_token_id and not self.text.stopped:
            yield await self._end_with_image()
        else:
            done = self.text.stopped or last == special.eos_token_id
            yield self._end("stop" if done else "length")

    def _ended(self) -> bool:
        """Whether what was resumed already is the whole turn."""
        special = self.engine.config.special_tokens
        return (
            self.text.stopped
            or len(self.ids) >= self.sampling.max_tokens
            or (bool(self.ids) and self.ids[-1] in (special.soi_token_id, special.eos_token_id))
        )

    async def _deltas(self) -> AsyncGenerator[TextDelta, None]:
        """Sample until something ends the turn."""
        room = self.engine.max_len - len(self.prompt.token_ids) - 1
        params = sampling_params(self.sampling, self.engine.config, self.resume, room)
        requests = self.engine.submit(self.prompt, params, self.request_id, self.priority)
        async with aclosing(requests) as outputs:
            async for output in outputs:
                self.num_cached = output.num_cached_tokens or self.num_cached
                new = list(output.outputs[0].token_ids)
                text, used = self.text.feed(new)
                self.ids += new[:used]
                if output.finished and not self.text.stopped:
                    text += self.text.flush()
                if used:
                    yield TextDelta(text, tuple(new[:used]))
                if self.text.stopped:
                    return

    async def _end_with_image(self) -> TextEnd:
        """Turn the context, which ends with begin-of-image, into image tokens."""
        prompt = TurnPrompt(
            self.prompt.token_ids[: self.num_prompt] + tuple(self.ids),
            self.prompt.pixels,
            self.prompt.digests,
        )
        tokens, output = await self.engine.image_tokens(prompt, self.request_id, self.priority)
        if not self.ids:
            self.num_cached = output.num_cached_tokens or 0
        return self._end("image", tokens)

    def _end(
        self, reason: Literal["stop", "length", "image"], tokens: torch.Tensor | None = None
    ) -> TextEnd:
        """The turn's last event."""
        return TextEnd(reason, self.num_prompt, self.num_cached, len(self.ids), tokens)

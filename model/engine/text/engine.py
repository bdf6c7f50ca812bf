"""The text engine: AsyncLLM with the MM-Interleaved plugin, embedded in this process.

A turn samples text until its end or a begin-of-image token. After the latter, a second request of
one token writes the hidden states of the whole context to a file, from which the image tokens are
made. Its prompt is the turn up to and including that token, nearly all of it in the prefix cache.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from model.checkpoint import load, store
from model.engine.protocol import EngineDied, EngineVitals, TextDelta, TextEnd, TextLimits
from model.engine.text.options import TextEngineOptions
from model.engine.text.prompt import (
    PromptBuilder,
    TurnPrompt,
    engine_input,
    extraction_params,
    vllm_params,
)
from model.engine.text.scores import TokenScores
from model.engine.text.startup.cache import check_cache
from model.engine.text.startup.machine import fit_to_machine
from model.engine.text.startup.vllm import TextStatistics, longest_sequence, start_vllm, stop_vllm
from model.engine.text.turn import Turn
from model.processor import Processor
from model.sampling_params import ImageMode, SamplingParams
from model.segments import Segment
from model.vllm_plugin.cache.hidden_states import PATH_KEY
from model.vllm_plugin.cache.token_bytes import describe_cache

logger = logging.getLogger(__name__)

_CONDITION = ("context_feat_proj", "image_decoder.perceiver_resampler")
_SHARED_MEMORY = Path("/dev/shm")


class VllmTextEngine:
    """`model.engine.protocol.TextEngine` on vLLM."""

    def __init__(self, options: TextEngineOptions) -> None:
        self.options = options
        self.config = store.load_config(options.checkpoint)
        self.tokenizer = store.load_tokenizer(options.checkpoint)
        self.max_len = longest_sequence(options, self.config)
        self.scores = TokenScores(self.tokenizer.backend_tokenizer)
        self.statistics = TextStatistics()
        self.prompts = PromptBuilder(
            self.config, Processor(self.config, self.tokenizer), self.max_len
        )
        self._llm: AsyncLLM | None = None
        self._condition: torch.nn.Module | None = None
        self._exchange: Path | None = None
        self._num_held = 0

    async def start(self) -> None:
        """Start vLLM's processes, load the model and warm up.

        Raises:
            CacheTooSmall: the cache is given a size in which the longest request does not fit.
        """
        self.options = await asyncio.to_thread(fit_to_machine, self.options, self.config)
        check_cache(self.options, self.config)
        self._condition = await asyncio.to_thread(
            load.load_model, self.options.checkpoint, _CONDITION
        )
        shared = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._exchange = Path(tempfile.mkdtemp(prefix="mmi-text-", dir=shared))
        self._llm = await asyncio.to_thread(start_vllm, self.options, self.config, self.statistics)
        logger.info("%s", describe_cache(self.config, self.options.dtype))
        await self._warm_up()

    async def stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await stop_vllm(llm)
        if self._exchange is not None:
            shutil.rmtree(self._exchange, ignore_errors=True)
        self._condition = None

    async def generate(
        self,
        context: tuple[Segment, ...],
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int = 256,
        images: ImageMode = "allow",
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        """Yield deltas, then exactly one `TextEnd`; see `TextEngine.generate`."""
        prompt = await self.prompts.build(context, images == "force", resume)
        special, tokenizer = self.config.special_tokens, self.tokenizer.backend_tokenizer
        turn = Turn(prompt, resume, sampling, max_tokens, images, special, tokenizer)
        with self._holding():
            if not turn.ended:
                room = self.max_len - len(prompt.token_ids) - 1
                params = vllm_params(sampling, max_tokens, images, self.config, resume, room)
                async with aclosing(self.submit(prompt, params, request_id, priority)) as outputs:
                    async for output in outputs:
                        if delta := turn.take(output, self.scores):
                            yield delta
                        if turn.stopped:
                            break
            if not turn.begins_image:
                yield turn.end()
                return
            tokens, num_cached = await self._image_tokens(turn.context, request_id, priority)
        anchored = self.config.image_decoder.anchored
        yield turn.end_with_image(tokens, num_cached, anchored)

    def limits(self) -> TextLimits:
        return TextLimits(
            max_prompt_tokens=self.max_len - 2,
            max_images=self.config.max_images,
            tokens_per_image=1 + self.config.num_img_token,
            vocabulary=self.scores.vocabulary(),
        )

    def vitals(self) -> EngineVitals:
        """Whether vLLM's processes run, and how many steps they have reported."""
        alive = self._llm is not None and not self._llm.errored
        return EngineVitals(alive, self._num_held > 0, self.statistics.num_steps)

    async def ping(self) -> None:
        """Wait for an answer of vLLM's process, which serves calls between two steps.

        Raises:
            EngineDied: it has ended.
        """
        if self._llm is None:
            raise EngineDied("the text engine is not running")
        try:
            await self._llm.is_paused()
        except EngineDeadError as error:
            raise EngineDied("vLLM's process has ended") from error

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Count a generation; what fails because vLLM's process has ended raises `EngineDied`."""
        self._num_held += 1
        try:
            yield
        except (EngineDeadError, EngineGenerateError, OSError) as error:
            if self.vitals().alive:
                raise
            raise EngineDied("vLLM's process has ended") from error
        finally:
            self._num_held -= 1

    def submit(
        self, prompt: TurnPrompt, params: Any, request_id: str, priority: int
    ) -> AsyncGenerator[RequestOutput, None]:
        """Start a vLLM request.

        Raises:
            EngineDied: the engine is not running.
        """
        if self._llm is None:
            raise EngineDied("the text engine is not running")
        inputs = engine_input(prompt, self.config)
        return self._llm.generate(inputs, params, request_id, priority=priority)

    async def _image_tokens(
        self, context: TurnPrompt, request_id: str, priority: int
    ) -> tuple[torch.Tensor, int]:
        """Image tokens [T, C] of a context that ends with begin-of-image, and how much was cached.

        A request may be running twice, so its name alone does not make the file's name unique.
        """
        directory = Path(tempfile.mkdtemp(dir=self._exchange))
        path, num_cached = directory / "hidden.safetensors", 0
        try:
            params = extraction_params(str(path))
            requests = self.submit(context, params, f"{request_id}/image", priority)
            async with aclosing(requests) as outputs:
                async for output in outputs:
                    num_cached = output.num_cached_tokens or 0
            return await asyncio.to_thread(self._read_image_tokens, path), num_cached
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @torch.inference_mode()
    def _read_image_tokens(self, path: Path) -> torch.Tensor:
        """Read hidden states, nearest first, as the image decoder's perceiver does."""
        model: Any = self._condition
        hidden_LD = load_file(path)[PATH_KEY].float()
        context_1LD = model.project_context(hidden_LD.flip(0).unsqueeze(0))
        tokens_TC: torch.Tensor = model.image_tokens(context_1LD)[0]
        return tokens_TC.float().clone()

    async def _warm_up(self) -> None:
        """Run a turn of two tokens, so that the first request does not wait for what loads late."""
        sampling = SamplingParams(min_tokens=2, temperature=0.0)
        async for _ in self.generate((), sampling, "warm-up", max_tokens=2, images="forbid"):
            pass

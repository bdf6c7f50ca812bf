"""One turn of text: what is sampled, what is shown, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

import torch
from vllm.outputs import RequestOutput

from model.engine.protocol import TextDelta, TextEnd
from model.engine.text.detokenizer import Detokenizer
from model.engine.text.prompt import TurnPrompt, sampling_params
from model.sampling_params import ImageMode, SamplingParams, TokenScore

if TYPE_CHECKING:
    from model.engine.text.engine import VllmTextEngine


class Turn:
    """One turn of text, from its prompt to its end."""

    def __init__(
        self,
        engine: VllmTextEngine,
        prompt: TurnPrompt,
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int,
        images: ImageMode,
        resume: tuple[int, ...],
        priority: int,
    ) -> None:
        self.engine, self.prompt, self.sampling = engine, prompt, sampling
        self.request_id, self.priority = request_id, priority
        self.max_tokens, self.images, self.resume = max_tokens, images, resume
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
        if self.images == "force":
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
            or len(self.ids) >= self.max_tokens
            or (bool(self.ids) and self.ids[-1] in (special.soi_token_id, special.eos_token_id))
        )

    async def _deltas(self) -> AsyncGenerator[TextDelta, None]:
        """Sample until something ends the turn."""
        room = self.engine.max_len - len(self.prompt.token_ids) - 1
        params = sampling_params(
            self.sampling, self.max_tokens, self.images, self.engine.config, self.resume, room
        )
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
                    yield TextDelta(text, tuple(new[:used]), self._scores(output, new[:used]))
                if self.text.stopped:
                    return

    def _scores(self, output: RequestOutput, token_ids: list[int]) -> tuple[TokenScore, ...]:
        """The log-probabilities of new tokens, if they were asked for."""
        num_top, reported = self.sampling.logprobs, output.outputs[0].logprobs
        if num_top is None or reported is None:
            return ()
        return self.engine.scores.read(token_ids, reported[: len(token_ids)], num_top)

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

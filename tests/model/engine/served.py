"""A served model beside the plain PyTorch one: the same prompts through both."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from vllm import SamplingParams
from vllm.outputs import RequestOutput

from model.checkpoint import load
from model.engine.text.engine import VllmTextEngine
from model.engine.text.prompt import TurnPrompt
from model.mm_interleaved import TEXT, Batch, MMInterleaved
from model.segments import ImageSegment, Segment, TextSegment

WORDS = ("a", "module", "is", "a", "file", "of", "names", "and", "statements", "that", "may", "run")


def picture(seed: int) -> ImageSegment:
    """A random picture; every seed has its own digest."""
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 75, 3), dtype=np.uint8)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return ImageSegment(Image.fromarray(pixels).resize((150, 120)), digest)


def text(seed: int, num_words: int = 8) -> TextSegment:
    """Some words."""
    words = np.random.default_rng(seed).choice(WORDS, num_words)
    return TextSegment(f"{' '.join(words)} {seed}")


def interleaved(seed: int, images: Sequence[int]) -> tuple[Segment, ...]:
    """Text, then pictures with text behind each."""
    segments: list[Segment] = [text(seed)]
    for image in images:
        segments += [picture(image), text(seed + image, 4)]
    return tuple(segments)


@dataclass
class Continuation:
    """What greedy decoding gave: ids, and the logits of the ids that vLLM reported."""

    prompt: TurnPrompt
    token_ids: list[int]
    logits: list[dict[int, float]]
    prompt_logits: list[dict[int, float] | None]
    num_cached: int


async def greedy(
    engine: VllmTextEngine,
    context: tuple[Segment, ...],
    num_tokens: int,
    request_id: str,
    resume: tuple[int, ...] = (),
    logprobs: int = 5,
    prompt_logprobs: int | None = None,
) -> Continuation:
    """Decode exactly `num_tokens` tokens greedily; begin-of-image does not stop it."""
    prompt = await engine.prompts.build(context, False, resume)
    special = engine.config.special_tokens
    params = SamplingParams(
        max_tokens=num_tokens,
        temperature=0.0,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        ignore_eos=True,
        detokenize=False,
        # A begin-of-image token without an image behind it would be no valid context.
        logit_bias={special.image_token_id: -100.0, special.soi_token_id: -100.0},
    )
    last: RequestOutput | None = None
    async for output in engine.submit(prompt, params, request_id, 0):
        last = output
    assert last is not None
    completion = last.outputs[0]
    return Continuation(
        prompt,
        list(completion.token_ids),
        [_numbers(step) for step in completion.logprobs],
        [step and _numbers(step) for step in last.prompt_logprobs or ()],
        last.num_cached_tokens or 0,
    )


def _numbers(step: dict) -> dict[int, float]:
    return {token: entry.logprob for token, entry in step.items()}


class Reference:
    """The plain PyTorch model, whole sequences at once, in float32 on any device."""

    def __init__(self, checkpoint: Path, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model: MMInterleaved = load.load_model(checkpoint, TEXT, device=self.device)

    @torch.inference_mode()
    def read(self, prompt: TurnPrompt, token_ids: Sequence[int] = ()) -> tuple:
        """Logits [L, V] and image tokens of a prompt with a continuation behind it, on the CPU."""
        ids_1L = torch.tensor([[*prompt.token_ids, *token_ids]])
        side = self.model.config.vision.image_size
        pixels = torch.stack(prompt.pixels) if prompt.pixels else torch.zeros(0, 3, side, side)
        batch = Batch(ids_1L, pixels, torch.tensor([len(prompt.pixels)]))
        if not prompt.pixels:
            return self._without_images(ids_1L)
        return self._read(batch)

    def _without_images(self, ids_1L: torch.Tensor) -> tuple:
        """A sequence of text, as a row of a batch in which another row has images."""
        config = self.model.config
        side, image = config.vision.image_size, config.special_tokens.image_token_id
        other_L = torch.full_like(ids_1L[0], config.special_tokens.pad_token_id)
        needed = config.num_img_token + 2
        if len(other_L) < needed:
            ids_1L = torch.nn.functional.pad(ids_1L, (0, needed - len(other_L)))
            other_L = torch.zeros(needed, dtype=torch.long)
        other_L[0] = config.special_tokens.bos_token_id
        other_L[1] = config.special_tokens.soi_token_id
        other_L[2:needed] = image
        batch = Batch(
            torch.stack((ids_1L[0], other_L)), torch.zeros(1, 3, side, side), torch.tensor([0, 1])
        )
        logits_LV, tokens_NTD = self._read(batch)
        return logits_LV, tokens_NTD[:-1]

    def _read(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first row, and the image tokens."""
        tensors = {one.name: getattr(batch, one.name) for one in fields(batch)}
        batch = Batch(**{n: t if t is None else t.to(self.device) for n, t in tensors.items()})
        hidden_BLD = self.model(batch).hidden_BLD
        tokens_NTD = self.model.image_tokens(*self.model.image_contexts(hidden_BLD, batch))
        return self.model.text_decoder(hidden_BLD)[0].cpu(), tokens_NTD.cpu()

    def worst(self, continuation: Continuation) -> float:
        """Largest difference of a logit; infinite if a token is not the reference's choice."""
        logits_LV, _ = self.read(continuation.prompt, continuation.token_ids)
        first = len(continuation.prompt.token_ids) - 1
        special = self.model.config.special_tokens
        worst = 0.0
        for step, (token, logits) in enumerate(
            zip(continuation.token_ids, continuation.logits, strict=True)
        ):
            expected_V = logits_LV[first + step].clone()
            worst = max(worst, *(abs(expected_V[k].item() - v) for k, v in logits.items()))
            expected_V[[special.image_token_id, special.soi_token_id]] = -torch.inf
            if int(expected_V.argmax()) != token:
                return float("inf")
        for position, logits in enumerate(continuation.prompt_logits):
            if logits:
                expected_V = logits_LV[position - 1]
                worst = max(worst, *(abs(expected_V[k].item() - v) for k, v in logits.items()))
        return worst


async def together(*coroutines) -> list:
    """Run requests at the same time, each beginning a little after the one before."""

    async def delayed(position: int, coroutine):
        await asyncio.sleep(0.02 * position)
        return await coroutine

    return await asyncio.gather(*(delayed(i, c) for i, c in enumerate(coroutines)))

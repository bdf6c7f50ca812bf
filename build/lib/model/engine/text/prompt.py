"""From a context to what vLLM takes: prompt ids, pixels and sampling parameters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import torch
import vllm
from cachetools import LRUCache
from transformers import BatchFeature
from vllm.inputs import MultiModalInput, TokensInput, mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.sampling_params import RequestOutputKind

from model.config.schema import MMInterleavedConfig
from model.processor import Processor, Prompt
from model.sampling_params import ImageMode, SamplingParams
from model.segments import Segment
from model.vllm_plugin.cache.hidden_states import PATH_KEY
from model.vllm_plugin.multimodal import PIXELS, image_fields
from model.vllm_plugin.penalties import RESUMED_KEY

# vLLM clamps biases to +-100; at that distance a token is never sampled.
_NEVER = -100.0
_PIXEL_CACHE_IMAGES = 64


@dataclass(frozen=True)
class TurnPrompt:
    """The ids of a turn, with the pixels and digests of the images among them."""

    token_ids: tuple[int, ...]
    pixels: tuple[torch.Tensor, ...]
    digests: tuple[str, ...]

    def extended(self, token_ids: tuple[int, ...]) -> TurnPrompt:
        return TurnPrompt(self.token_ids + token_ids, self.pixels, self.digests)


class PromptBuilder:
    """Encodes contexts; keeps the pixels of recent images by digest."""

    def __init__(self, config: MMInterleavedConfig, processor: Processor, max_len: int) -> None:
        self.config = config
        self.processor = processor
        self.max_len = max_len
        self.pixels: LRUCache[str, torch.Tensor] = LRUCache(_PIXEL_CACHE_IMAGES)

    async def build(
        self, context: tuple[Segment, ...], begin_image: bool, resume: tuple[int, ...]
    ) -> TurnPrompt:
        """Encode a context, and append the ids already generated.

        Raises:
            ValueError: too many images, or no room left for an answer.
        """
        prompt = self.processor.encode(context, begin_image=begin_image)
        self._check(prompt, len(resume))
        pixels = [
            await self._prepare(image, d)
            for image, d in zip(prompt.images, prompt.digests, strict=True)
        ]
        return TurnPrompt(prompt.input_ids + resume, tuple(pixels), prompt.digests)

    def _check(self, prompt: Prompt, num_resumed: int) -> None:
        if len(prompt.images) > self.config.max_images:
            raise ValueError(
                f"{len(prompt.images)} images are more than the model's {self.config.max_images}"
            )
        # One token must fit behind the prompt, and one more behind a begin-of-image token.
        if (length := len(prompt.input_ids) + num_resumed) > self.max_len - 2:
            raise ValueError(
                f"the context takes {length} tokens; with room for an answer the model holds "
                f"{self.max_len - 2}"
            )

    async def _prepare(self, image: Any, digest: str) -> torch.Tensor:
        """Pixels of an image: cached, or resized in a thread."""
        pixels = self.pixels.get(digest)
        if pixels is None:
            pixels = await asyncio.to_thread(self.processor.pixels, image)
            self.pixels[digest] = pixels
        return pixels


def engine_input(prompt: TurnPrompt, config: MMInterleavedConfig) -> MultiModalInput | TokensInput:
    """A prompt as vLLM's renderers would produce it; digests key its caches."""
    token_ids = list(prompt.token_ids)
    if not prompt.pixels:
        return tokens_input(token_ids)
    features = BatchFeature({PIXELS: torch.stack(prompt.pixels)})
    soi, image = config.special_tokens.soi_token_id, config.special_tokens.image_token_id
    starts = [
        at + 1
        for at, pair in enumerate(zip(token_ids, token_ids[1:], strict=False))
        if pair == (soi, image)
    ]
    return mm_input(
        token_ids,
        MultiModalKwargsItems.from_hf_inputs(features, image_fields()),
        {"image": list(prompt.digests)},
        {"image": [PlaceholderRange(at, config.num_img_token) for at in starts]},
    )


def vllm_params(
    sampling: SamplingParams,
    max_tokens: int,
    images: ImageMode,
    config: MMInterleavedConfig,
    resume: tuple[int, ...],
    room: int,
) -> vllm.SamplingParams:
    """Parameters of vLLM for the rest of a turn of which `resume` has been generated.

    A seeded turn that is resumed uses a derived seed: its continuation is reproducible, but differs
    from that of the undisturbed turn.
    """
    special, bias = config.special_tokens, dict(sampling.logit_bias)
    bias[special.image_token_id] = _NEVER
    if images == "forbid":
        bias[special.soi_token_id] = _NEVER
    seed = sampling.seed
    return vllm.SamplingParams(
        max_tokens=min(max_tokens - len(resume), room),
        min_tokens=max(0, min(sampling.min_tokens - len(resume), room)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=seed if seed is None or not resume else (seed + 7919 * len(resume)) % (1 << 63),
        logit_bias=bias,
        logprobs=sampling.logprobs,
        stop_token_ids=[special.eos_token_id, special.soi_token_id],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={RESUMED_KEY: list(resume)} if resume else None,
    )


def extraction_params(path: str) -> vllm.SamplingParams:
    """Sample one token, which nobody reads; the prompt's hidden states are in `path` by then."""
    return vllm.SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={"kv_transfer_params": {PATH_KEY: path}},
    )

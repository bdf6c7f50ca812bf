"""How text tokens are sampled and images are generated: one type from the request to the engine.

Standard library only, so that the gateway can import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SchedulerName = Literal["ddpm", "ddim", "dpmsolver++", "unipc"]
ImageMode = Literal["allow", "forbid", "force"]
MAX_STEPS = 200  # Denoising steps that an image may ask for.


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of text, with vLLM's names.

    `logprobs` is the number of most probable tokens to report at each position: None reports
    nothing, 0 the sampled token alone.
    """

    min_tokens: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None


@dataclass(frozen=True)
class ImageParams:
    """Parameters of one image. A size or guidance of None takes the checkpoint's."""

    width: int | None = None
    height: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    scheduler: SchedulerName = "ddpm"
    seed: int = 0
    num_previews: int = 0


@dataclass(frozen=True)
class TokenScore:
    """A sampled token's natural log-probability, and the most probable tokens at its position.

    They are the model's own: before temperature, penalties, biases and truncation.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


QualityName = Literal["reference", "high", "balanced", "fast"]


@dataclass(frozen=True)
class Quality:
    """A preset of `ImageParams`; `mmi bench quality` measures its cost (docs/performance.md)."""

    steps: int
    scheduler: SchedulerName


QUALITIES: dict[QualityName, Quality] = {
    "reference": Quality(30, "ddpm"),  # as published
    "high": Quality(30, "dpmsolver++"),
    "balanced": Quality(15, "dpmsolver++"),
    "fast": Quality(8, "dpmsolver++"),
}

"""How much memory the model needs, on the text worker and on the image worker.

Weights are counted on the real modules, built on the meta device. The memory of encoding and of
generating one image is counted by running the real code on the meta device. The language model's
step, which vLLM runs, is estimated by a formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.checkpoint.load import serving_dtype
from model.config.schema import MMInterleavedConfig
from model.memory.live_bytes import LiveBytes
from model.mm_interleaved import IMAGE, TEXT, MMInterleaved
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.unet_synchronizer import flatten_maps
from model.vllm_plugin.cache.token_bytes import TokenBytes

GIB = 2**30

# Live numbers of a token inside one layer of the language model: residual, normed and attention
# output; gate and up, and their product.
_LIVE_HIDDEN, _LIVE_INNER = 4, 3


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of a plan.

    Attributes:
        dtype: of weights and cache.
        num_images: images of a request, in its content and generated.
        num_text_tokens: text tokens of a request, prompt and answer.
        step_tokens: tokens that the text engine computes in one step.
        step_requests: requests that it samples in one step.
        image_concurrency: images at a time of an image worker on the same card.
        reserve_bytes: CUDA context, graphs, workspaces and fragmentation, on each worker.
    """

    dtype: torch.dtype = torch.bfloat16
    num_images: int = 4
    num_text_tokens: int = 512
    step_tokens: int = 2048
    step_requests: int = 64
    image_concurrency: int = 4
    reserve_bytes: int = 2 * GIB


@dataclass(frozen=True)
class Component:
    """Weights of one part of the model; `text` and `image` say which workers hold it."""

    name: str
    num_parameters: int
    num_bytes: int
    text: bool
    image: bool


@dataclass(frozen=True)
class TextPlan:
    """Memory of the text worker. A request's tokens are its text and its images' tokens."""

    weights: int
    activations: int
    token: TokenBytes
    tokens_per_image: int
    tokens_per_request: int

    @property
    def request_bytes(self) -> int:
        """Cache of one request."""
        return self.tokens_per_request * self.token.total

    def fixed_bytes(self, reserve: int) -> int:
        """Memory in use before the first request."""
        return self.weights + self.activations + reserve

    def cache_bytes(self, gpu_bytes: int, reserve: int) -> int:
        """What is left for the cache; negative if not even the weights fit."""
        return gpu_bytes - self.fixed_bytes(reserve)

    def num_requests(self, gpu_bytes: int, reserve: int) -> int:
        """Requests whose cache fits at the same time; -1 if not even the weights do."""
        room = self.cache_bytes(gpu_bytes, reserve)
        return room // self.request_bytes if room >= 0 else -1


@dataclass(frozen=True)
class ImagePlan:
    """Memory of the image worker; `activations` are those of an image with both guidance halves."""

    weights: int
    conditions: int
    activations: int
    decoding: int
    reading: int

    @property
    def image_bytes(self) -> int:
        """Memory of an image while it is generated."""
        return self.conditions + self.activations

    def fixed_bytes(self, reserve: int) -> int:
        """Memory of any batch: weights, and decoding or encoding one image."""
        return self.weights + max(self.decoding, self.reading) + reserve

    def num_images(self, gpu_bytes: int, reserve: int) -> int:
        """Images that can be denoised in one batch; -1 if not even the weights fit."""
        room = gpu_bytes - self.fixed_bytes(reserve)
        return room // self.image_bytes if room >= 0 else -1


@dataclass(frozen=True)
class OfficialMemory:
    """Memory of the official program, which holds everything in one process."""

    float32: int
    half: int
    host: int


@dataclass(frozen=True)
class MemoryPlan:
    """The whole plan of a configuration."""

    config: MMInterleavedConfig
    assumptions: Assumptions
    components: tuple[Component, ...]
    text: TextPlan
    image: ImagePlan
    official: OfficialMemory


@torch.no_grad()
def plan_memory(config: MMInterleavedConfig, assumptions: Assumptions) -> MemoryPlan:
    """Plan the memory of a configuration."""
    with torch.device("meta"):
        model = MMInterleaved(config).eval()
        components = weigh(model, assumptions.dtype)
        # The official program holds everything in float32 on the GPU. While loading, model and
        # state dictionary are both in host memory.
        float32 = sum(c.num_parameters for c in components) * 4
        official = OfficialMemory(float32, float32 // 2, 2 * float32)
        serve_as(model, assumptions.dtype)
        reading, maps = _reading(model, assumptions.dtype)
        text = text_plan(config, assumptions, components, reading)
        image = _image_plan(model, assumptions, components, reading, maps)
    return MemoryPlan(config, assumptions, components, text, image, official)


def weigh(model: MMInterleaved, dtype: torch.dtype) -> tuple[Component, ...]:
    """The weights of every component in their types of serving, in the order of the model."""
    counts: dict[str, list[int]] = {}
    for name, tensor in model.state_dict().items():
        count = counts.setdefault(_component_of(name), [0, 0])
        count[0] += tensor.numel()
        count[1] += tensor.numel() * serving_dtype(name, tensor.dtype, dtype).itemsize
    return tuple(
        Component(name, number, size, name.startswith(TEXT), name.startswith(IMAGE))
        for name, (number, size) in counts.items()
    )


def serve_as(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert every tensor to its type in serving."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensor.data.to(serving_dtype(name, tensor.dtype, dtype))


def _component_of(name: str) -> str:
    """The component that a parameter belongs to; each part of the image decoder is one."""
    parts = name.split(".")
    if parts[0] != "image_decoder":
        return parts[0]
    return ".".join(parts[: 3 if parts[1] == "decoder" else 2])


def _reading(model: MMInterleaved, dtype: torch.dtype) -> tuple[int, Sequence[torch.Tensor]]:
    """The peak of encoding one image, and its maps."""
    side = model.config.vision.image_size
    with LiveBytes() as live:
        visual = model.visual_tokenizer(torch.empty(1, 3, side, side, dtype=dtype))
    return live.peak, visual.maps


def text_plan(
    config: MMInterleavedConfig,
    assumptions: Assumptions,
    components: Sequence[Component],
    reading: int,
) -> TextPlan:
    """The text worker's memory; `reading` is the peak of encoding one image."""
    llm, size = config.llm, assumptions.dtype.itemsize
    live = _LIVE_HIDDEN * llm.hidden_size + _LIVE_INNER * llm.intermediate_size
    # Logits in float32, and the sampler's sorted copy of them.
    logits = 2 * 4 * config.txt_vocab_size * assumptions.step_requests
    tokens_per_image = config.num_img_token + 1
    return TextPlan(
        weights=sum(c.num_bytes for c in components if c.text),
        activations=max(assumptions.step_tokens * live * size + logits, reading),
        token=TokenBytes.of(config, assumptions.dtype),
        tokens_per_image=tokens_per_image,
        tokens_per_request=1
        + assumptions.num_text_tokens
        + assumptions.num_images * tokens_per_image,
    )


def _image_plan(
    model: MMInterleaved,
    assumptions: Assumptions,
    components: Sequence[Component],
    reading: int,
    maps: Sequence[torch.Tensor],
) -> ImagePlan:
    """Run one image's preparation, one denoising step and its decoding on the meta device."""
    config, dtype = model.config.image_decoder, assumptions.dtype
    decoder = model.image_decoder
    sampler = decoder.sampler(GridSampling())
    tokens = torch.empty(1, config.perceiver.num_queries, config.perceiver.hidden_size, dtype=dtype)
    visible = torch.ones(1, 1, dtype=torch.bool)
    features = flatten_maps(maps).unsqueeze(1)
    conditions = sampler.prepare(tokens, features, visible)
    latents = torch.empty(
        1, int(config.unet["in_channels"]), config.latent_size, config.latent_size, dtype=dtype
    )
    with LiveBytes() as denoising:
        sampler.predict(latents, torch.full((1,), 1), sampler.join([conditions], guided=True))
    with LiveBytes() as decoding:
        sampler.decode(latents)
    return ImagePlan(
        weights=sum(c.num_bytes for c in components if c.image),
        conditions=conditions.num_bytes,
        activations=denoising.peak,
        decoding=decoding.peak,
        reading=reading,
    )

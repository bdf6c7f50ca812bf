"""The `torch` backend: PyTorch on the CPU or a GPU, eager or compiled.

Legend: B images, N rows, T image tokens, D width, V positions, C latent channels, H, W latent
grid, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import load, store
from model.config.schema import MMInterleavedConfig
from model.engine.image.backends.base import Backend, Capabilities, Predict
from model.image_decoder.conditions import Conditions
from model.image_decoder.sampler import ImageSampler, encode
from model.mm_interleaved import IMAGE
from model.processor import pixel_values
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.maps import MapSampling
from model.synchronizer.unet_synchronizer import flatten_maps

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchBackend:
    """Evaluates with PyTorch."""

    def __init__(
        self,
        checkpoint: Path,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int = 8,
        compiled: bool = False,
        sampling: MapSampling | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config: MMInterleavedConfig = store.load_config(checkpoint)
        self.device = torch.device(choose_device(device))
        self.dtype = _DTYPES[choose_dtype(dtype, self.device)]
        self.max_batch = max_batch
        self.compiled = compiled
        self._sampling = sampling
        self._sampler: ImageSampler | None = None
        self._step: Callable[[Tensor, Tensor, Conditions], Tensor] | None = None
        self._precise: TorchBackend | None = None

    @property
    def sampler(self) -> ImageSampler:
        """The networks."""
        assert self._sampler is not None, "the backend is not started"
        return self._sampler

    @property
    def capabilities(self) -> Capabilities:
        """Any batch up to the largest, any size; if compiled, batches of powers of two."""
        sizes = range(1, self.max_batch + 1)
        return Capabilities(
            name="torch",
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            buckets=tuple(n for n in sizes if not self.compiled or n & (n - 1) == 0),
            sizes=None,
            image_bytes=image_bytes(self.config, self.dtype.itemsize),
            notes=(f"torch {torch.__version__}", "compiled" if self.compiled else "eager"),
        )

    def start(self) -> None:
        """Load the weights, fold them, and run one warm-up step to compile the kernels."""
        model = load.load_model(self.checkpoint, IMAGE, self.dtype, self.device)
        self.visual_tokenizer = model.visual_tokenizer
        decoder = model.image_decoder
        assert decoder is not None
        if self.device.type == "cuda":
            decoder.decoder.unet.to(memory_format=torch.channels_last)
        # torch.compile can't look into the fused kernel, but fuses `grid_sample` with its
        # neighbours.
        self._sampler = decoder.sampler(
            self._sampling or (GridSampling() if self.compiled else None)
        )
        self._step = self._sampler.predict
        if self.compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._step = torch.compile(self._sampler.predict, mode=mode, dynamic=False)
        self.warm_up(self.capabilities.buckets if self.compiled else (1,))

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Evaluate once in every bucket."""
        decoder = self.config.image_decoder
        tokens = torch.zeros(1, decoder.perceiver.num_queries, decoder.perceiver.hidden_size)
        prepared = self.prepare(tokens, None)
        shape = (int(decoder.unet["in_channels"]), decoder.latent_size, decoder.latent_size)
        for bucket in buckets:
            predict = self.join([prepared] * bucket, guided=True)
            predict(torch.zeros(bucket, *shape), torch.zeros(bucket))

    @torch.no_grad()
    def features(self, image: Image.Image) -> Tensor:
        """Maps of a conditioning image as positions, [1, 1, V, D]."""
        pixels_13SS = pixel_values(image, self.config.vision.image_size).unsqueeze(0)
        maps = self.visual_tokenizer(pixels_13SS.to(self.device, self.dtype)).maps
        return flatten_maps(maps).unsqueeze(1)

    @torch.no_grad()
    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Conditions:
        """What all steps of one image share."""
        features_11VD, visible_11 = self.conditioning(features_11VD)
        image_tokens_1TD = image_tokens_1TD.to(self.device, self.dtype)
        return self.sampler.prepare(image_tokens_1TD, features_11VD, visible_11)

    def conditioning(self, features_11VD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of the preceding image (zeros without one), and whether there is one."""
        visible_11 = torch.ones(1, 1, device=self.device)
        if features_11VD is None:
            num = sum(side * side for side in self.config.vision.map_sizes)
            features_11VD = torch.zeros(1, 1, num, self.config.image_embed_dim)
            visible_11.zero_()
        return features_11VD.to(self.device, self.dtype), visible_11

    def join(self, images: Sequence[Conditions], guided: bool) -> Predict:
        """The U-Net for these images, with both guidance halves if `guided`."""
        joined, step = self.sampler.join(images, guided), self._step
        assert step is not None

        @torch.no_grad()
        def predict(latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
            latents_BCHW = latents_BCHW.to(self.device, self.dtype)
            return step(latents_BCHW, timesteps_B.to(self.device), joined).float()

        return predict

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        return self.sampler.decode(latents_BCHW.to(self.device))

    @torch.no_grad()
    def encode(self, pixels_B3SS: Tensor) -> Tensor:
        """Latents of images in [0, 1]: the mean of the autoencoder's posterior."""
        return encode(self.sampler.vae, pixels_B3SS.to(self.device))

    def precise(self) -> Backend:
        """A float32 copy, made when first needed; this backend if it is in float32."""
        if self.dtype == torch.float32:
            return self
        if self._precise is None:
            self._precise = TorchBackend(self.checkpoint, str(self.device), "float32", 1)
            self._precise.start()
        return self._precise

    def stop(self) -> None:
        """Free memory."""
        self._sampler = self._step = self._precise = None


def choose_device(device: str) -> str:
    """A GPU if there is one and nothing else was asked for."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(dtype: str, device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it fast, else float32.

    A CPU needs tile units (AMX) for that: with AVX512-BF16 alone a step took 1.25 times as long as
    in float32 (docs/performance.md).
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"


def image_bytes(config: MMInterleavedConfig, item_bytes: int) -> int:
    """Memory of an image while it is generated: conditions, and its share of the activations."""
    decoder = config.image_decoder
    num_blocks = (
        len(decoder.unet["block_out_channels"]) * (decoder.unet["layers_per_block"] + 1) + 1
    )
    width = int((decoder.synchronizer.attn_dim or 0) * decoder.synchronizer.ratio)
    values = num_blocks * sum(side * side for side in config.vision.map_sizes) * width
    channels = max(decoder.unet["block_out_channels"])
    activations = 2 * 16 * channels * decoder.latent_size**2
    return int((values + activations) * item_bytes)

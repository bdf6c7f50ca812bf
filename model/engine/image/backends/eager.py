"""The `torch` backend: PyTorch on the CPU or a GPU; eager, recorded or compiled.

Legend: B images, N rows, T image tokens, D width, V positions, C latent channels, H, W latent
grid, S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import load, store
from model.config.schema import MMInterleavedConfig
from model.device.graph import Graphs, graphs_of
from model.device.stream import upload
from model.engine.dtype import resolve_dtype
from model.engine.image.backends.base import Backend, Capabilities, Predict
from model.engine.image.steps.cache import CompileCache, cache_key
from model.engine.image.steps.captured import CapturedStep, Step
from model.engine.image.steps.compiled import CompiledStep, StepArguments
from model.image_decoder.sampler import ImageSampler, encode
from model.image_decoder.unet.conditions import Conditions
from model.memory.estimate import image_bytes
from model.mm_interleaved import IMAGE
from model.processor import pixel_values
from model.synchronizer.kernels.grid import GridOperator
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
        *,
        warm_up: Sequence[int] = (1,),
        compiled_into: Path | None = None,
        sampling: MapSampling | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        """Not started yet.

        Args:
            checkpoint: directory of the model.
            device: `auto`, `cpu` or `cuda`.
            dtype: `auto` or a number type.
            max_batch: images in one evaluation.
            warm_up: numbers of images of which a step is made ready.
            compiled_into: compile the blocks of the step, and keep the code in this directory.
            sampling: how maps are read; by default the fastest.
            graphs: what records steps; by default what the device has.
        """
        self.checkpoint = checkpoint
        self.config: MMInterleavedConfig = store.load_config(checkpoint)
        self.device = torch.device(choose_device(device))
        self.dtype = _DTYPES[choose_dtype(dtype, self.device)]
        self.max_batch = max_batch
        self._buckets = [bucket for bucket in warm_up if bucket <= max_batch]
        self._compiled_into, self._sampling = compiled_into, sampling
        self._graphs = graphs or graphs_of(self.device)
        self._sampler: ImageSampler | None = None
        self._step: Step | None = None
        self._precise: TorchBackend | None = None

    @property
    def sampler(self) -> ImageSampler:
        """The networks."""
        assert self._sampler is not None, "the backend is not started"
        return self._sampler

    @property
    def capabilities(self) -> Capabilities:
        """Any batch up to the largest, and any size."""
        how = "compiled" if self._compiled_into else "eager"
        return Capabilities(
            name="torch",
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            buckets=tuple(range(1, self.max_batch + 1)),
            sizes=None,
            image_bytes=image_bytes(self.config, self.dtype.itemsize),
            notes=(f"torch {torch.__version__}", f"{how}, recorded" if self._graphs else how),
        )

    def start(self) -> None:
        """Load the weights, fold them, make steps ready, and begin to compile them if asked."""
        model = load.load_model(self.checkpoint, IMAGE, self.dtype, self.device)
        self.visual_tokenizer = model.visual_tokenizer
        decoder = model.image_decoder
        assert decoder is not None
        if self.device.type == "cuda":
            decoder.decoder.unet.to(memory_format=torch.channels_last)
        sampling = self._sampling or (GridOperator() if self._compiled_into else None)
        self._sampler = decoder.sampler(sampling)
        self._step = self._recorded(self._sampler.predict)
        for bucket in self._buckets:
            self._warm_up(bucket)
        if self._compiled_into is not None:
            self._step = self._compile(self._compiled_into)

    def _recorded(self, step: Step) -> Step:
        return step if self._graphs is None else CapturedStep(step, self._graphs)

    @torch.no_grad()
    def _warm_up(self, bucket: int) -> None:
        """Evaluate once: kernels are loaded, and the step is recorded."""
        assert self._step is not None
        self._step(*self.example(bucket))

    def _compile(self, directory: Path) -> CompiledStep:
        """The present step, to be replaced by compiled ones in the course of time."""
        assert self._step is not None
        step = CompiledStep(self.sampler, self._step, self._recorded)
        key = cache_key(self.config, self.device, self.dtype, self._buckets)
        inputs = [partial(self.example, bucket) for bucket in self._buckets]
        step.compile(inputs, CompileCache(directory, key))
        return step

    def finish_compiling(self) -> None:
        """Wait until every step asked for is compiled."""
        if isinstance(self._step, CompiledStep):
            self._step.wait()

    def example(self, bucket: int) -> StepArguments:
        """Random inputs of a guided step with preceding images."""
        decoder, generator = self.config.image_decoder, torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return upload(torch.randn(shape, generator=generator), self.device, self.dtype)

        perceiver, side = decoder.perceiver, decoder.latent_size
        num_features = sum(side * side for side in self.config.vision.map_sizes)
        prepared = self.prepare(
            random(1, perceiver.num_queries, perceiver.hidden_size),
            random(1, 1, num_features, self.config.image_embed_dim),
        )
        latents_BCHW = random(bucket, int(decoder.unet["in_channels"]), side, side)
        timesteps_B = torch.full((bucket,), 500, device=self.device)
        return latents_BCHW, timesteps_B, self.sampler.join([prepared] * bucket, guided=True)

    @torch.no_grad()
    def features(self, image: Image.Image) -> Tensor:
        """Maps of a conditioning image as positions, [1, 1, V, D]."""
        pixels_13SS = pixel_values(image, self.config.vision.image_size).unsqueeze(0)
        maps = self.visual_tokenizer(upload(pixels_13SS, self.device, self.dtype)).maps
        return flatten_maps(maps).unsqueeze(1)

    @torch.no_grad()
    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Conditions:
        """What all steps of one image share."""
        features_11VD, visible_11 = self.conditioning(features_11VD)
        image_tokens_1TD = upload(image_tokens_1TD, self.device, self.dtype)
        return self.sampler.prepare(image_tokens_1TD, features_11VD, visible_11)

    def conditioning(self, features_11VD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of the preceding image (zeros without one), and whether there is one."""
        visible_11 = torch.ones(1, 1, device=self.device)
        if features_11VD is None:
            num = sum(side * side for side in self.config.vision.map_sizes)
            features_11VD = torch.zeros(1, 1, num, self.config.image_embed_dim, device=self.device)
            visible_11.zero_()
        return upload(features_11VD, self.device, self.dtype), visible_11

    def join(self, images: Sequence[Conditions], guided: bool) -> Predict:
        """The U-Net for these images, with both guidance halves if `guided`."""
        joined, step = self.sampler.join(images, guided), self._step
        assert step is not None

        @torch.no_grad()
        def predict(latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
            return step(latents_BCHW.to(self.dtype), timesteps_B, joined).float()

        return predict

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        return self.sampler.decode(latents_BCHW)

    @torch.no_grad()
    def encode(self, pixels_B3SS: Tensor) -> Tensor:
        """Latents of images in [0, 1]: the mean of the autoencoder's posterior."""
        return encode(self.sampler.vae, upload(pixels_B3SS, self.device))

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
        if isinstance(self._step, CompiledStep):
            self._step.stop()
        self._sampler = self._step = self._precise = None


def choose_device(device: str) -> str:
    """A GPU if there is one and nothing else was asked for."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(dtype: str, device: torch.device) -> str:
    """The type in which a device computes images, for `auto` the fastest.

    A CPU needs tile units (AMX) for bfloat16: with AVX512-BF16 alone a step took 1.25 times as long
    as in float32 (docs/performance.md).
    """
    cuda = device.type == "cuda"
    fast = torch.cuda.is_bf16_supported if cuda else torch.cpu._is_amx_tile_supported
    return resolve_dtype(dtype, device.type, fast)

"""Backends that run compiled graphs: what ONNX Runtime and TensorRT have in common.

Legend: B images, N rows (2B: negative half first), T image tokens, D width, V positions, C
latent channels, H, W latent grid, S pixels.

The visual tokenizer and repetitions in float32 run in PyTorch. Before the first image every graph
is compared with PyTorch on the device in use; a backend whose graphs differ does not start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.device.stream import upload
from model.engine.image.backends.base import Backend, Capabilities, Predict, pad
from model.engine.image.backends.eager import TorchBackend
from model.export.graphs import condition_names, sampler_graphs
from model.export.manifest import Manifest
from model.export.parity import compare
from model.image_decoder.unet.conditions import Conditions
from model.memory.estimate import image_bytes
from model.synchronizer.kernels.grid import GridSampling


class Executor(Protocol):
    """Runs one compiled graph."""

    def run(self, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Outputs in order; they may be overwritten by the next run."""
        ...

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Set inputs that stay the same for many runs, whose `run` then omits them."""
        ...


class GraphBackend:
    """Evaluates compiled graphs."""

    def __init__(
        self,
        checkpoint: Path,
        manifest: Manifest,
        executors: Mapping[str, Executor],
        device: str,
        name: str,
    ) -> None:
        precision = manifest.key.precision
        self.torch = TorchBackend(
            checkpoint, device, precision, warm_up=(), sampling=GridSampling()
        )
        self.config: MMInterleavedConfig = self.torch.config
        self.manifest, self.executors, self.name = manifest, executors, name
        self._bound: dict[int, Mapping[str, Tensor]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """The buckets and the one size that were compiled."""
        key, side = self.manifest.key, self.manifest.latent_size
        return Capabilities(
            name=self.name,
            device=str(self.torch.device),
            precision=key.precision,
            buckets=key.buckets,
            sizes=((side, side),),
            image_bytes=image_bytes(self.config, self.torch.dtype.itemsize),
            notes=(f"{key.flavour} {key.library_version}".strip(), f"key {key.digest}"),
        )

    def start(self) -> None:
        """Load the PyTorch parts, and compare every graph with PyTorch.

        Raises:
            ParityError: a graph's numbers differ.
        """
        self.torch.start()
        self._names = condition_names(self.torch.sampler)
        for graph in sampler_graphs(self.torch.sampler, self.config, self.manifest.key.buckets):
            compare(graph, self.executors[graph.key].run).check()

    def features(self, image: Image.Image) -> Tensor:
        """Maps of a conditioning image as positions, [1, 1, V, D]."""
        return self.torch.features(image)

    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Conditions:
        """What all steps of one image share."""
        features_11VD, visible_11 = self.torch.conditioning(features_11VD)
        inputs = {
            "image_tokens": upload(image_tokens_1TD, self.torch.device, self.torch.dtype),
            "features": features_11VD,
        }
        outputs = tuple(x.clone() for x in self.executors["prepare-1"].run(inputs))
        return Conditions.of(outputs, self.torch.sampler.negative, visible_11)

    def constants(self, images: Sequence[Conditions]) -> dict[str, Tensor]:
        """Joined images as inputs of the denoising graph, which always has both halves."""
        joined = self.torch.sampler.join(images, guided=True)
        inputs = dict(zip(self._names, joined.tensors, strict=True))
        return inputs | {"visible": joined.visible}

    def join(self, images: Sequence[Conditions], guided: bool) -> Predict:
        """The graph of a bucket; without `guided` its negative half is discarded."""
        bucket, constants = len(images), self.constants(images)
        executor = self.executors[f"denoise-{bucket}"]

        def predict(latents_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
            if self._bound.get(bucket) is not constants:
                executor.bind(constants)
                self._bound[bucket] = constants
            inputs = {"latents": latents_BCHW, "timesteps": timesteps_B.float()}
            noise_NCHW = executor.run(inputs)[0]
            return noise_NCHW if guided else noise_NCHW[bucket:]

        return predict

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1], in as few evaluations as the buckets allow."""
        buckets, images = self.manifest.key.buckets, []
        for part in latents_BCHW.split(buckets[-1]):
            bucket = min(b for b in buckets if b >= len(part))
            inputs = {"latents": pad(part, bucket).float()}
            images.append(self.executors[f"decode-{bucket}"].run(inputs)[0][: len(part)].clone())
        return torch.cat(images)

    def encode(self, pixels_B3SS: Tensor) -> Tensor:
        """Latents of images in [0, 1]; used to fit previews."""
        return self.torch.encode(pixels_B3SS)

    def precise(self) -> Backend:
        """PyTorch in float32."""
        return self.torch.precise()

    def stop(self) -> None:
        """Free memory."""
        self.torch.stop()
        self.executors = {}

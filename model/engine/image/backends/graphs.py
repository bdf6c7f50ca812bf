"""Backends that run compiled graphs: what ONNX Runtime and TensorRT have in common.

Legend: B images, N rows (2B: negative half first), T image tokens, D width, V positions, C
latent channels, H, W latent grid, S pixels.

The visual tokenizer and second tries in float32 stay with PyTorch. Before the first image every
graph is compared with PyTorch on the device at hand; graphs that differ are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.engine.image.backends.base import Backend, Batch, Capabilities
from model.engine.image.backends.eager import TorchBackend, picture_bytes
from model.export.manifest import Manifest
from model.export.parity import compare
from model.export.wrappers import invariant_names, sampler_graphs
from model.image_decoder.conditions import Invariants
from model.synchronizer.map_sampling import GridSampling


class Executor(Protocol):
    """Runs one compiled graph."""

    def run(self, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Outputs in order; they may be overwritten by the next run."""
        ...

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Set inputs that stay for many runs, which then need not name them."""
        ...


@dataclass(eq=False)
class GraphBatch:
    """Images joined to the inputs of the denoising graph of a bucket."""

    num_pictures: int
    bucket: int
    guided: bool
    inputs: dict[str, Tensor] = field(repr=False)


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
        self.torch = TorchBackend(checkpoint, device, precision, sampling=GridSampling())
        self.config: MMInterleavedConfig = self.torch.config
        self.manifest, self.executors, self.name = manifest, executors, name
        self._bound: dict[int, GraphBatch] = {}

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
            picture_bytes=picture_bytes(self.config, self.torch.dtype.itemsize),
            notes=(f"{key.flavour} {key.library_version}".strip(), f"key {key.digest}"),
        )

    def start(self) -> None:
        """Load what stays with PyTorch, and check every graph against it.

        Raises:
            ParityError: a graph computes something else.
        """
        self.torch.start()
        self._names = invariant_names(self.torch.sampler)
        for graph in sampler_graphs(self.torch.sampler, self.config, self.manifest.key.buckets):
            compare(graph, self.executors[graph.key].run).check()

    def features(self, image: Image.Image) -> Tensor:
        """Maps of a conditioning image as positions, [1, 1, V, D]."""
        return self.torch.features(image)

    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Invariants:
        """What all steps of one image share."""
        features_11VD, visible_11 = self.torch.conditioning(features_11VD)
        inputs = {
            "image_tokens": image_tokens_1TD.to(self.torch.device, self.torch.dtype),
            "features": features_11VD,
        }
        outputs = tuple(x.clone() for x in self.executors["prepare-1"].run(inputs))
        num_cross = len(self.torch.sampler.negative.keys)
        return Invariants(
            outputs[:num_cross],
            outputs[num_cross : 2 * num_cross],
            outputs[2 * num_cross :],
            visible_11,
        )

    def constants(self, pictures: Sequence[Invariants]) -> dict[str, Tensor]:
        """Joined images as inputs of the denoising graph, which always has both halves."""
        joined = Invariants.stack(pictures, self.torch.sampler.negative)
        tensors = (*joined.keys, *joined.values, *joined.maps)
        return dict(zip(self._names, tensors, strict=True)) | {"visible": joined.visible}

    def batch(self, pictures: Sequence[Invariants], guided: bool, bucket: int) -> Batch:
        """Join images; padding repeats the last one."""
        padded = [*pictures, *[pictures[-1]] * (bucket - len(pictures))]
        return GraphBatch(len(pictures), bucket, guided, self.constants(padded))

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, batch: Batch) -> Tensor:
        """One evaluation of the U-Net: [N, C, H, W] in float32, without padding."""
        assert isinstance(batch, GraphBatch)
        executor = self.executors[f"denoise-{batch.bucket}"]
        if self._bound.get(batch.bucket) is not batch:
            executor.bind(batch.inputs)
            self._bound[batch.bucket] = batch
        padding = batch.bucket - batch.num_pictures
        latents_BCHW = torch.cat((latents_BCHW, latents_BCHW[-1:].expand(padding, -1, -1, -1)))
        timesteps_B = torch.cat((timesteps_B, timesteps_B[-1:].expand(padding)))
        inputs = {
            "latents": latents_BCHW.to(self.torch.device),
            "timesteps": timesteps_B.to(self.torch.device, torch.float32),
        }
        noise_NCHW = executor.run(inputs)[0]
        halves = noise_NCHW.view(2, batch.bucket, *noise_NCHW.shape[1:])[:, : batch.num_pictures]
        return (halves if batch.guided else halves[1:]).flatten(0, 1).float()

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1], in as few evaluations as the buckets allow."""
        buckets, images = self.manifest.key.buckets, []
        while len(latents_BCHW):
            bucket = next((b for b in buckets if b >= len(latents_BCHW)), buckets[-1])
            part = latents_BCHW[:bucket]
            padding = part[-1:].expand(bucket - len(part), -1, -1, -1)
            inputs = {"latents": torch.cat((part, padding)).float().to(self.torch.device)}
            images.append(self.executors[f"decode-{bucket}"].run(inputs)[0][: len(part)].clone())
            latents_BCHW = latents_BCHW[bucket:]
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

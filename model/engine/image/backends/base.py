"""What the denoising loop needs from a backend, which evaluates the networks.

Legend: B images, N rows (2B with guidance: negative half first), T image tokens, D width, V
positions of the preceding image's maps, C latent channels, H, W latent grid, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.image_decoder.unet.conditions import Conditions

Predict = Callable[[Tensor, Tensor], Tensor]
"""One evaluation of the U-Net for joined images: from latents [B, C, H, W] and timesteps [B] to
[N, C, H, W] in float32, all on the backend's device and without waiting for it. The result may be
overwritten by the next evaluation."""


class BackendUnavailable(RuntimeError):
    """The backend can't run here; the message says why."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do: read by admission and batching, and shown in logs and metrics.

    Attributes:
        name: of the backend.
        device: where it runs, and where latents and predictions are.
        precision: number type of the U-Net.
        buckets: numbers of images that one evaluation may hold, ascending.
        sizes: latent grids (height, width) it accepts; None: any that the networks can halve.
        image_bytes: memory that an image of the checkpoint's size holds while it is generated.
        notes: for people, such as library versions.
    """

    name: str
    device: str
    precision: str
    buckets: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] | None
    image_bytes: int
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """Evaluates the networks. Called from one thread only."""

    @property
    def config(self) -> MMInterleavedConfig:
        """Configuration of the checkpoint."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Known after `start`."""
        ...

    def start(self) -> None:
        """Load and warm up."""
        ...

    def features(self, image: Image.Image) -> Tensor:
        """Maps of a conditioning image as positions, [1, 1, V, D]."""
        ...

    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Conditions:
        """What all steps of one image share."""
        ...

    def join(self, images: Sequence[Conditions], guided: bool) -> Predict:
        """The U-Net for as many images as a bucket holds; with both guidance halves if `guided`."""
        ...

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        ...

    def encode(self, pixels_B3SS: Tensor) -> Tensor:
        """Latents of images in [0, 1]; used to fit previews."""
        ...

    def precise(self) -> Backend:
        """The same in float32, for images whose numbers overflowed."""
        ...

    def stop(self) -> None:
        """Free memory."""
        ...


def pad(rows: Tensor, num: int) -> Tensor:
    """Repeat the last row until there are `num`."""
    missing = num - len(rows)
    return torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:]))) if missing else rows

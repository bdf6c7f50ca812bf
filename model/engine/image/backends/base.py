"""What the denoising loop asks of whatever evaluates the networks.

Legend: B images, N rows (2B with guidance: negative half first), T image tokens, D width, V
positions of the preceding image's maps, C latent channels, H, W latent grid, S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.image_decoder.conditions import Invariants


class BackendUnavailable(RuntimeError):
    """The compiled graphs can't run here; the message says why."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, for admission, for batching and for people.

    Attributes:
        name: of the backend.
        device: where it runs.
        precision: number type of the U-Net.
        buckets: numbers of images that one evaluation may hold, ascending.
        sizes: latent grids (height, width) it accepts; None: any that the networks can halve.
        picture_bytes: memory that an image of the checkpoint's size holds while being drawn.
        notes: what else is worth knowing, such as library versions.
    """

    name: str
    device: str
    precision: str
    buckets: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] | None
    picture_bytes: int
    notes: tuple[str, ...] = ()


class Batch(Protocol):
    """Images joined for evaluation. Made anew only when the images in it change."""

    @property
    def num_pictures(self) -> int:
        """Images without padding."""
        ...


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

    def prepare(self, image_tokens_1TD: Tensor, features_11VD: Tensor | None) -> Invariants:
        """What all steps of one image share."""
        ...

    def batch(self, pictures: Sequence[Invariants], guided: bool, bucket: int) -> Batch:
        """Join images, padded to a bucket; with both guidance halves if `guided`."""
        ...

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, batch: Batch) -> Tensor:
        """One evaluation of the U-Net: [N, C, H, W] in float32, without padding."""
        ...

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        ...

    def encode(self, pixels_B3SS: Tensor) -> Tensor:
        """Latents of images in [0, 1]; used to fit previews."""
        ...

    def precise(self) -> Backend:
        """The same in float32, for a second try where numbers overflowed."""
        ...

    def stop(self) -> None:
        """Free memory."""
        ...

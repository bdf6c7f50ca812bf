"""Partial images without the autoencoder: a linear map from a latent vector to a colour.

Legend: C latent channels, H, W latent grid, R samples, S pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.engine.image.backends.base import Backend
from model.processor import to_image

_BLOCKS = 12


class LatentColours:
    """The map, fitted by least squares to the autoencoder's latents of random colour patches."""

    def __init__(self, backend: Backend) -> None:
        decoder = backend.config.image_decoder
        generator = torch.Generator().manual_seed(0)
        blocks = torch.rand(1, 3, _BLOCKS, _BLOCKS, generator=generator)
        pixels_13SS = F.interpolate(blocks, size=(decoder.image_size,) * 2, mode="bilinear")
        latents_1CHW = backend.encode(pixels_13SS).float().cpu()
        colours_13HW = F.interpolate(pixels_13SS, size=latents_1CHW.shape[-2:], mode="area")
        latents_RC = latents_1CHW[0].flatten(1).T
        with_bias_RC = F.pad(latents_RC, (0, 1), value=1.0)
        self.matrix_C3 = torch.linalg.lstsq(with_bias_RC, colours_13HW[0].flatten(1).T).solution
        self.pixels_per_latent = decoder.vae_scale_factor

    def image(self, latents_CHW: Tensor) -> Image.Image:
        """An image of full size, without fine detail."""
        height, width = latents_CHW.shape[-2:]
        with_bias_LC = F.pad(latents_CHW.float().cpu().flatten(1).T, (0, 1), value=1.0)
        colours_3HW = (with_bias_LC @ self.matrix_C3).T.unflatten(1, (height, width))
        scale = self.pixels_per_latent
        return to_image(colours_3HW.clamp(0, 1)).resize(
            (width * scale, height * scale), Image.Resampling.BICUBIC
        )

"""Partial images without the autoencoder: a linear map from a latent vector to a colour.

Legend: B images, C latent channels, H, W latent grid, R samples, S pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.device.stream import Stream, upload
from model.engine.image.backends.base import Backend
from model.processor import to_image

_BLOCKS = 12


class LatentColours:
    """The map, fitted by least squares to the autoencoder's latents of random colour patches."""

    def __init__(self, backend: Backend, stream: Stream) -> None:
        decoder = backend.config.image_decoder
        generator = torch.Generator().manual_seed(0)
        blocks = torch.rand(1, 3, _BLOCKS, _BLOCKS, generator=generator)
        pixels_13SS = F.interpolate(blocks, size=(decoder.image_size,) * 2, mode="bilinear")
        latents_1CHW = stream.download(backend.encode(pixels_13SS).float())
        stream.record().wait()
        colours_13HW = F.interpolate(pixels_13SS, size=latents_1CHW.shape[-2:], mode="area")
        latents_RC = latents_1CHW[0].flatten(1).T
        with_bias_RC = F.pad(latents_RC, (0, 1), value=1.0)
        matrix_C3 = torch.linalg.lstsq(with_bias_RC, colours_13HW[0].flatten(1).T).solution
        self.matrix_C3 = upload(matrix_C3, stream.device)
        self.pixels_per_latent = decoder.vae_scale_factor

    def of(self, latents_BCHW: Tensor) -> Tensor:
        """Colours of latents in [0, 1], on their device: [B, 3, H, W]."""
        colours_B3HW = torch.einsum("bchw,cr->brhw", latents_BCHW.float(), self.matrix_C3[:-1])
        return (colours_B3HW + self.matrix_C3[-1].view(1, 3, 1, 1)).clamp(0, 1)

    def image(self, colours_3HW: Tensor) -> Image.Image:
        """An image of full size, without fine detail, from colours on the host."""
        height, width = colours_3HW.shape[-2:]
        scale = self.pixels_per_latent
        return to_image(colours_3HW).resize(
            (width * scale, height * scale), Image.Resampling.BICUBIC
        )

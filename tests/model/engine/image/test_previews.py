"""Previews have the colours of the image that the autoencoder would decode."""

from __future__ import annotations

import numpy as np
import torch

from model.device.stream import HostStream
from model.engine.image.previews import LatentColours
from tests.model.engine.jobs import small_config


class Averaging:
    """An autoencoder whose latents are mean colours and a constant."""

    config = small_config()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        scale = self.config.image_decoder.vae_scale_factor
        colours = torch.nn.functional.avg_pool2d(pixels, scale)
        return torch.cat((2 * colours - 1, torch.ones_like(colours[:, :1])), 1)


def test_a_linear_autoencoder_is_inverted() -> None:
    backend = Averaging()
    colours = LatentColours(backend, HostStream(torch.device("cpu")))  # type: ignore[arg-type]
    pixels = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(1, 3, 16, 24)
    image = colours.image(colours.of(backend.encode(pixels))[0])
    assert image.size == (24, 16)
    assert np.abs(np.asarray(image).astype(int) - [51, 128, 204]).max() <= 1

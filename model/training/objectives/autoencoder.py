"""The autoencoder of the pictures: reconstruction with sharp edges, things counted more."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.training.data import pixels_of
from model.training.parameters import ParameterGroup
from model.training.world.examples import any_scene

_THING_WEIGHT = 3.0
_LATENT_NOISE = 0.1
_LATENT_PENALTY = 1e-4
_FIRST_THING_LABEL = 2


class AutoencoderObjective:
    """Absolute and squared error, error of the differences of neighbours, and small latents."""

    def __init__(
        self,
        config: MMInterleavedConfig,
        batch_size: int = 6,
        object_set: str = "drawn",
        decoder_only: bool = False,
        seed: int = 0,
    ) -> None:
        self.vae = AutoencoderKL(**dict(config.image_decoder.vae))
        self.module: nn.Module = self.vae
        self.size = config.image_decoder.image_size
        self.batch_size, self.object_set = batch_size, object_set
        self.decoder_only, self.seed = decoder_only, seed

    def adopt(self, vae: AutoencoderKL) -> None:
        """Train this autoencoder in place of a fresh one."""
        self.vae = self.module = vae

    def groups(self) -> list[ParameterGroup]:
        """Everything, or the decoder alone once the latents are in use."""
        trained: list[nn.Module] = [self.vae]
        if self.decoder_only:
            trained = [self.vae.decoder, self.vae.post_quant_conv]
        return [ParameterGroup(tuple(p for part in trained for p in part.parameters()))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The loss on fresh scenes."""
        rng = random.Random(f"autoencoder/{self.seed}/{step}")
        scenes = [any_scene(rng, self.object_set) for _ in range(self.batch_size)]
        pixels = [pixels_of(scene.render(self.size)) for scene in scenes]
        wanted_N3SS = torch.stack(pixels).to(self.vae.device) * 2 - 1
        things = [torch.from_numpy(scene.label_map(self.size)) for scene in scenes]
        is_thing_N1SS = (torch.stack(things).to(self.vae.device) >= _FIRST_THING_LABEL).unsqueeze(1)
        with torch.set_grad_enabled(not self.decoder_only):
            mean_NCHW = self.vae.encode(wanted_N3SS).latent_dist.mean
        noisy_NCHW = mean_NCHW + _LATENT_NOISE * torch.randn_like(mean_NCHW)
        error_N3SS = self.vae.decode(noisy_NCHW).sample - wanted_N3SS
        weight_N1SS = 1 + _THING_WEIGHT * is_thing_N1SS
        point = (weight_N1SS * (error_N3SS.abs() + error_N3SS.square())).mean()
        across, down = error_N3SS.diff(dim=-1).abs().mean(), error_N3SS.diff(dim=-2).abs().mean()
        loss = point + across + down + _LATENT_PENALTY * mean_NCHW.square().mean()
        decibel = 10 * torch.log10(4 / error_N3SS.detach().square().mean())
        return {"loss": loss, "psnr": decibel}

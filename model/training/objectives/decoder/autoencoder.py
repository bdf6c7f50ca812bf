"""The autoencoder: an encoder of principal components, and the training of the decoder.

The encoder needs no training. Its trunk is linear once its residual branches are zero: 1x1
shortcuts and strided convolutions. Each halving gathers a patch of 2x2 positions and keeps the main
components. Only the final normalisation and activation are not linear, and both are made so: every
latent shares a group with its negative and two large constants, which fixes the statistics of the
group, and a large offset keeps the activation in its linear range.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.training.data.batches import pixels_of
from model.training.data.loading import Loader, TensorBatch
from model.training.parameters import ParameterGroup
from model.training.recipe import Phase
from model.training.world.world import World

_CONSTANT = 300.0
_OFFSET = 40.0
_SMALL_LOG_VARIANCE = -20.0
_GROUP = 4


def scale_latents(model: MMInterleaved, factor: float) -> None:
    """Set the factor of the autoencoder's latents in all configurations of a model."""
    decoder = model.image_decoder
    config = replace(decoder.config, vae={**decoder.config.vae, "scaling_factor": factor})
    decoder.decoder.vae.register_to_config(scaling_factor=factor)
    decoder.config = decoder.decoder.config = config
    model.config = replace(model.config, image_decoder=config)


@torch.no_grad()
def write_principal_components(vae: AutoencoderKL, pixels_N3SS: Tensor) -> None:
    """Set the encoder of `vae` to the principal components of these images (in [0, 1]).

    Latents come out with a standard deviation of the square root of the components' own.

    Raises:
        ValueError: the last width is not four times the latent channels, in groups of four.
    """
    encoder, latents = vae.encoder, int(vae.config.latent_channels)
    widths = tuple(vae.config.block_out_channels)
    if widths[-1] != _GROUP * latents or encoder.conv_norm_out.num_groups != latents:
        raise ValueError("the last width must be four channels, one group, for each latent")
    for module in encoder.modules():
        if module.__class__.__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    _copy_channels(encoder.conv_in)
    means_NCHW = pixels_N3SS * 2 - 1
    num = 3
    for level, (width, after) in enumerate(pairwise((*widths[:-1], widths[-1]))):
        kept = latents if level == len(widths) - 2 else min(4 * num, width)
        block = encoder.down_blocks[level]
        shortcut = block.resnets[0].conv_shortcut
        if shortcut is not None:
            _copy_channels(shortcut)
        means_NCHW = _write_halving(block.downsamplers[0].conv, means_NCHW, num, kept)
        num = kept
        assert after >= num
    last = encoder.down_blocks[-1].resnets[0].conv_shortcut
    if last is not None:
        _copy_channels(last)
    _write_head(vae, means_NCHW)


def _copy_channels(conv: nn.Conv2d) -> None:
    """Make a convolution copy its input channels and fill the others with zeros."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    middle = conv.kernel_size[0] // 2
    for channel in range(min(conv.in_channels, conv.out_channels)):
        conv.weight[channel, channel, middle, middle] = 1


def _write_halving(conv: nn.Conv2d, input_NCHW: Tensor, num: int, kept: int) -> Tensor:
    """Set a strided convolution to the `kept` main components of 2x2 patches; returns its output.

    The output is centred, so that later components need not represent the mean.
    """
    patches_NPHW = F.pixel_unshuffle(input_NCHW, 2)
    flat_MP = patches_NPHW.permute(0, 2, 3, 1).flatten(0, 2)
    mean_P = flat_MP.mean(0)
    _, vectors_PP = torch.linalg.eigh(torch.cov(flat_MP.T))
    basis_KP = vectors_PP.flip(1).T[:kept]
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    conv.weight[:kept, :num, :2, :2] = basis_KP.unflatten(1, (num, 2, 2))
    conv.bias[:kept] = -(basis_KP @ mean_P)
    return torch.einsum("kp,nphw->nkhw", basis_KP, patches_NPHW - mean_P[:, None, None])


def _write_head(vae: AutoencoderKL, latents_NCHW: Tensor) -> None:
    """Pass the latents through the last normalisation and activation unchanged, then scale them.

    The last block is the only one without a halving: its channels are rearranged by the
    convolution before it, so that a group holds (x, -x, constant, -constant).
    """
    encoder, latents = vae.encoder, latents_NCHW.shape[1]
    conv = encoder.down_blocks[-2].downsamplers[0].conv
    weight, bias = conv.weight[:latents].clone(), conv.bias[:latents].clone()
    nn.init.zeros_(conv.weight)
    for index in range(latents):
        first = _GROUP * index
        conv.weight[first], conv.bias[first] = weight[index], bias[index]
        conv.weight[first + 1], conv.bias[first + 1] = -weight[index], -bias[index]
        conv.bias[first + 2], conv.bias[first + 3] = _CONSTANT, -_CONSTANT
    nn.init.constant_(encoder.conv_norm_out.weight, _CONSTANT / 2**0.5)
    nn.init.constant_(encoder.conv_norm_out.bias, _OFFSET)
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    nn.init.zeros_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    scale_C = latents_NCHW.std((0, 2, 3)).rsqrt()
    for index in range(latents):
        encoder.conv_out.weight[index, _GROUP * index, 1, 1] = scale_C[index]
        encoder.conv_out.bias[index] = -_OFFSET * scale_C[index]
        vae.quant_conv.weight[index, index, 0, 0] = 1
    vae.quant_conv.bias[latents:] = _SMALL_LOG_VARIANCE


_THING_WEIGHT = 3.0
_LATENT_NOISE = 0.1
_LATENT_PENALTY = 1e-4


class AutoencoderBatches:
    """Scenes, or a random square of each, and the places of their things."""

    def __init__(self, world: World, size: int, phase: Phase, seed: int) -> None:
        self.world, self.size, self.seed = world, size, seed
        self.batch_size, self.crop = phase.batch_size, phase.crop or size

    def __getitem__(self, step: int) -> TensorBatch:
        """Pixels [N, 3, S, S], and where things are [N, 1, S, S]."""
        rng = random.Random(f"autoencoder/{self.seed}/{step}")
        pixels, things = [], []
        for _ in range(self.batch_size):
            scene = self.world.scene(rng)
            top, left = (rng.randint(0, self.size - self.crop) for _ in range(2))
            part = (..., slice(top, top + self.crop), slice(left, left + self.crop))
            pixels.append(pixels_of(scene.render(self.size))[part])
            things.append(torch.from_numpy(scene.foreground(self.size))[part])
        return {"pixels": torch.stack(pixels), "things": torch.stack(things).unsqueeze(1)}


class AutoencoderObjective:
    """Absolute and squared error, error of neighbour differences, and a penalty on latents."""

    def __init__(
        self,
        vae: AutoencoderKL,
        image_size: int,
        phase: Phase,
        world: World,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.vae, self.module, self.phase = vae, vae, phase
        self.loader = Loader(AutoencoderBatches(world, image_size, phase, seed), workers)

    def groups(self) -> list[ParameterGroup]:
        """All parameters, or those of the decoder alone."""
        trained: list[nn.Module] = [self.vae]
        if self.phase.decoder_only:
            trained = [self.vae.decoder, self.vae.post_quant_conv]
        return [ParameterGroup(tuple(p for part in trained for p in part.parameters()))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The loss on fresh scenes."""
        batch = self.loader.load(step, self.vae.device)
        wanted_N3SS, is_thing_N1SS = batch["pixels"] * 2 - 1, batch["things"]
        with torch.set_grad_enabled(not self.phase.decoder_only):
            mean_NCHW = self.vae.encode(wanted_N3SS).latent_dist.mean
        noisy_NCHW = mean_NCHW + _LATENT_NOISE * torch.randn_like(mean_NCHW)
        error_N3SS = self.vae.decode(noisy_NCHW).sample - wanted_N3SS
        weight_N1SS = 1 + _THING_WEIGHT * is_thing_N1SS
        point = (weight_N1SS * (error_N3SS.abs() + error_N3SS.square())).mean()
        across, down = error_N3SS.diff(dim=-1).abs().mean(), error_N3SS.diff(dim=-2).abs().mean()
        loss = point + across + down + _LATENT_PENALTY * mean_NCHW.square().mean()
        decibel = 10 * torch.log10(4 / error_N3SS.detach().square().mean())
        return {"loss": loss, "psnr": decibel}

"""The losses of the published training: next tokens, and the noise that the U-Net predicts.

Legend: B sequences, L tokens, M learned tokens (of images: those after another one), V vocabulary,
D width, N images of the batch, K context length, T image tokens, S side of an image, C latent
channels, H, W latent grid, s side of a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from model.config.schema import ImageDecoderConfig
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.schedule import make_scheduler
from model.image_decoder.unet.step import Blocks, SkipReader
from model.mm_interleaved import Batch, MMInterleaved
from model.synchronizer.unet_synchronizer import flatten_maps
from model.text_decoder import context

_IMAGE_WEIGHT = 10.0
_MIN_CONTEXT = 3  # An image with nothing but `<bos>` and `<soi>` before it does not count.


@dataclass(frozen=True)
class TrainingNoise:
    """The random numbers of one training step, drawn in this order.

    Attributes:
        uncond_N11: uniform; an image whose number is below the probability loses its condition.
        posterior_NCHW: normal, for sampling from the autoencoder's posterior.
        noise_NCHW: normal, the noise that is added to the latents.
        timesteps_N: how much of it is added.
    """

    uncond_N11: Tensor
    posterior_NCHW: Tensor
    noise_NCHW: Tensor
    timesteps_N: Tensor

    @classmethod
    def draw(
        cls, num: int, config: ImageDecoderConfig, device: torch.device | None = None
    ) -> TrainingNoise:
        """Draw for `num` images from the global generator."""
        latent_channels, side = int(config.vae["latent_channels"]), config.latent_size
        shape = (num, latent_channels, side, side)
        # The published training draws this noise in the memory layout of the latents, which the
        # autoencoder yields with the channels last; the layout changes the numbers.
        channels_last = torch.empty(shape, device=device, memory_format=torch.channels_last)
        return cls(
            torch.rand(num, 1, 1, device=device),
            torch.randn(shape, device=device),
            channels_last.normal_(),
            torch.randint(0, int(config.scheduler["num_train_timesteps"]), (num,), device=device),
        )


@dataclass(frozen=True)
class Losses:
    """Terms of the training loss; `total` is minimised."""

    total: Tensor
    text: Tensor
    image: Tensor


def joint_loss(
    model: MMInterleaved,
    batch: Batch,
    targets_N3SS: Tensor,
    labels_BL: Tensor | None = None,
    noise: TrainingNoise | None = None,
) -> Losses:
    """The next-token loss plus ten times the denoising loss of every image.

    Args:
        model: the whole model.
        batch: sequences and images; `bos_columns_N` keeps the documents of a row apart.
        targets_N3SS: the same images at the image decoder's size, in [0, 1].
        labels_BL: targets of tokens 1, 2, ... [B, L - 1]; by default those of
            `context.training_labels`.
        noise: the image decoder's random numbers; drawn if None.
    """
    output = model(batch)
    text = text_loss(model, output.hidden_BLD, batch, labels_BL)
    conditions = model.image_conditions(output, batch)
    decoder = model.image_decoder
    noise = noise or TrainingNoise.draw(len(targets_N3SS), decoder.config, targets_N3SS.device)
    tokens_NTD = decoder.image_tokens(conditions.context_NKD, conditions.context_mask_NK)
    latents_NCHW = decoder.decoder.encode(targets_N3SS, noise.posterior_NCHW)
    error_NHW = denoising_error(
        decoder, latents_NCHW, tokens_NTD, conditions.maps, conditions.visible_N1, noise
    )
    image = image_loss(error_NHW, conditions.context_mask_NK)
    return Losses(text + _IMAGE_WEIGHT * image, text, image)


def text_loss(
    model: MMInterleaved,
    hidden_BLD: Tensor,
    batch: Batch,
    labels_BL: Tensor | None = None,
    weights_BL: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the learned tokens, weighted by `weights_BL` if given."""
    if labels_BL is None:
        mask_BL = batch.attention_mask_BL
        labels_BL = context.training_labels(
            batch.text_ids_BL,
            torch.ones_like(batch.text_ids_BL) if mask_BL is None else mask_BL,
            model.config.special_tokens,
        )
    is_learned_BL = labels_BL != context.IGNORED
    logits_MV = model.text_decoder(hidden_BLD[:, :-1][is_learned_BL])
    if weights_BL is None:
        return F.cross_entropy(logits_MV, labels_BL[is_learned_BL])
    losses_M = F.cross_entropy(logits_MV, labels_BL[is_learned_BL], reduction="none")
    weights_M = weights_BL[is_learned_BL]
    return (losses_M * weights_M).sum() / weights_M.sum()


def denoising_error(
    decoder: ImageDecoder,
    latents_NCHW: Tensor,
    tokens_NTD: Tensor,
    maps: Sequence[Tensor],
    visible_N1: Tensor,
    noise: TrainingNoise,
) -> Tensor:
    """Squared error of the U-Net's prediction at every place of the latents, [N, H, W].

    Args:
        decoder: the image decoder.
        latents_NCHW: of the images to learn.
        tokens_NTD: their image tokens; some images lose them, for guidance.
        maps: of the preceding image, [N, 1, D, s, s], finest first.
        visible_N1: whether there is a preceding image.
        noise: the random numbers.
    """
    dropped_N11 = noise.uncond_N11 < decoder.config.uncond_prob
    tokens_NTD = torch.where(dropped_N11, decoder.neg_prompt_embeds, tokens_NTD)
    prediction, target = predict(decoder, latents_NCHW, tokens_NTD, maps, visible_N1, noise)
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(1)


def image_loss(error_NHW: Tensor, context_mask_NK: Tensor) -> Tensor:
    """Mean over the images; those without any context before them count as 0."""
    error_N = error_NHW.mean((1, 2)) * (context_mask_NK.sum(1) >= _MIN_CONTEXT)
    return error_N.mean()


def predict(
    decoder: ImageDecoder,
    latents_NCHW: Tensor,
    tokens_NTD: Tensor,
    maps: Sequence[Tensor],
    visible_N1: Tensor,
    noise: TrainingNoise,
) -> tuple[Tensor, Tensor]:
    """The U-Net's prediction on noised latents, and its target."""
    schedule = make_scheduler("ddpm", decoder.config.scheduler, 1)
    assert isinstance(schedule, DDPMScheduler)
    noisy_NCHW = schedule.add_noise(latents_NCHW, noise.noise_NCHW, noise.timesteps_N)
    rows_M = visible_N1[:, 0].nonzero()[:, 0]
    step = decoder.decoder.step
    step.blocks = replace(Blocks.eager(), attend=partial(_attend_rows, rows_M))
    conditions = step.prepare(tokens_NTD, flatten_maps(maps)[rows_M], visible_N1)
    prediction_NCHW = step.predict(noisy_NCHW, noise.timesteps_N, conditions)
    if decoder.config.scheduler.get("prediction_type") == "v_prediction":
        velocity_NCHW = schedule.get_velocity(latents_NCHW, noise.noise_NCHW, noise.timesteps_N)
        return prediction_NCHW, velocity_NCHW
    return prediction_NCHW, noise.noise_NCHW


def _attend_rows(
    rows_M: Tensor, block: SkipReader, sample_NCHW: Tensor, values_MIVHd: Tensor, visible_N1: Tensor
) -> Tensor:
    """A skip with its residual; only the M images after another one read maps.

    Half of the images of training have none before them, and reading is a third of a step.
    """
    residual_NCHW = block.nothing_C[:, None, None].expand_as(sample_NCHW)
    if len(rows_M):
        read_MCHW = block.attend(sample_NCHW[rows_M], values_MIVHd, visible_N1[rows_M])
        residual_NCHW = residual_NCHW.index_copy(0, rows_M, read_MCHW)
    return sample_NCHW + residual_NCHW


def colour_distance(
    readouts: Iterable[nn.Module], maps: Sequence[Tensor], pixels_N3SS: Tensor
) -> Tensor:
    """Mean distance of the colours that linear readouts find in maps, summed over the maps."""
    total = pixels_N3SS.new_zeros(())
    for readout, map_NDss in zip(readouts, maps, strict=True):
        wanted_N3ss = F.interpolate(pixels_N3SS, map_NDss.shape[-2:], mode="area")
        read_Nss3 = readout(F.layer_norm(map_NDss.movedim(1, -1), map_NDss.shape[1:2]))
        total = total + (read_Nss3.movedim(-1, 1) - wanted_N3ss).abs().mean()
    return total

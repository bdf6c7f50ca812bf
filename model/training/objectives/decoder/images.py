"""Objectives of the image decoder: on a frozen language model, or with all parts at once.

Legend: N images, D width, s side of a map, H, W latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import collate, images_of, pixels_of, tokenise
from model.training.data.features import FeatureBank
from model.training.data.mixture import Source
from model.training.objectives.losses import TrainingNoise, denoising_error, image_loss, joint_loss
from model.training.parameters import (
    ParameterGroup,
    freeze_pretrained,
    published_groups,
    train_only,
)
from model.training.recipe import IMAGE_TOKENS, Phase
from model.training.targets.image_pool import (
    Target,
    TargetPool,
    contexts_of,
    emphasis_of,
    maps_before,
    stack_kept,
)
from model.training.targets.image_tokens.codes import code_loss, codes_of
from model.training.world.drawable import Drawable
from model.training.world.facts import Facts

# Image tokens cost a small part of the U-Net's step.
_CONTEXTS_PER_IMAGE = 4


class ImageObjective:
    """The official denoising loss; contexts, maps and latents come from a pool."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        source: Source,
        facts: Facts,
        seed: int = 0,
        bank: FeatureBank | None = None,
    ) -> None:
        self.model, self.phase, self.facts = model.eval(), phase, facts
        self.learn_tokens = IMAGE_TOKENS not in phase.frozen
        self.module: nn.Module = model
        self.pool = TargetPool(model, processor, source, phase.num_pictures, seed, bank)
        train_only(model, self._trained())

    def _trained(self) -> list[nn.Module | nn.Parameter]:
        decoder = self.model.image_decoder
        parts: list[nn.Module | nn.Parameter | None] = [
            decoder.decoder.unet,
            decoder.decoder.mmfs_module,
            decoder.neg_prompt_embeds,
        ]
        if self.learn_tokens:
            parts += [decoder.perceiver_resampler, self.model.context_feat_proj]
        return [part for part in parts if part is not None]

    def groups(self) -> list[ParameterGroup]:
        """The parameters from the hidden states, or the image tokens, to the latents."""
        return [ParameterGroup(tuple(p for p in self.model.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The denoising loss of a step's targets, and the code loss if it has a weight.

        Where what is read is frozen, or learns from codes, it does not condition the U-Net alone:
        each image gets a random mix of its codes and of what is read, at least half codes. So the
        U-Net learns to use better tokens than the present ones.
        """
        contexts = _CONTEXTS_PER_IMAGE if self.phase.image_token_weight else 1
        drawn = self.pool.draw(step, contexts * self.phase.batch_size)
        targets = drawn[: self.phase.batch_size]
        device = self.model.soi_token.device
        hidden_NKD, mask_NK = contexts_of([target.hidden_KD for target in drawn], device)
        context_NKD = self.model.project_context(hidden_NKD)
        perceiver, codes = self.model.image_decoder.perceiver_resampler, None
        read_NTD = perceiver.read(context_NKD, mask_NK).float()
        if self.phase.image_token_weight or not self.learn_tokens:
            images = [target.image for target in drawn]
            if self.phase.image_token_weight:
                codes = code_loss(read_NTD, images, self.facts, self.model.config)
            read_NTD = self._near_codes(read_NTD[: len(targets)].detach(), images[: len(targets)])
        noise = TrainingNoise.draw(len(targets), self.model.image_decoder.config, device)
        tokens_NTD = perceiver.compose(read_NTD)
        error_NHW = self._error(targets, tokens_NTD, noise) * self.emphasis(targets).to(device)
        image = image_loss(error_NHW, mask_NK[: len(targets)])
        if codes is None:
            return {"loss": image}
        loss = image + self.phase.image_token_weight * codes
        return {"loss": loss, "picture": image, "codes": codes}

    def _error(self, targets: Sequence[Target], tokens_NTD: Tensor, noise: TrainingNoise) -> Tensor:
        """The squared error of the U-Net's prediction, [N, H, W]."""
        device = tokens_NTD.device
        latents_NCHW = stack_kept([target.latents_CHW for target in targets], device)
        previous = [target.previous for target in targets]
        maps, visible_N1 = maps_before(previous, self.model.config.vision, device)
        return denoising_error(
            self.model.image_decoder,
            latents_NCHW,
            tokens_NTD,
            maps,
            visible_N1,
            noise,
        )

    def _near_codes(self, read_NTD: Tensor, images: Sequence[Drawable]) -> Tensor:
        """A random mix of codes and what is read, at least half codes."""
        codes_NTD = codes_of(images, self.facts, self.model.config).to(read_NTD.device)
        share_N11 = 1 - torch.rand(len(images), 1, 1, device=read_NTD.device) / 2
        return torch.lerp(read_NTD, codes_NTD, share_N11)

    def emphasis(self, targets: Sequence[Target]) -> Tensor:
        """The weight of every place of the latents, [N, H, W], with a mean of 1."""
        foregrounds = [target.foreground_HW for target in targets]
        return emphasis_of(foregrounds, self.phase.foreground_weight)


class JointObjective:
    """The published pre-training: text and images of the same sequences."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        source: Source,
    ) -> None:
        self.module: nn.Module = model
        self.model, self.processor, self.phase, self.source = model, processor, phase, source
        freeze_pretrained(model, phase.frozen)

    def groups(self) -> list[ParameterGroup]:
        """All parameters that are not frozen, at the published relative rates."""
        return published_groups(self.model.named_parameters())

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The joint loss and its terms."""
        examples = self.source.draw(step, self.phase.batch_size)
        sequences = [tokenise(example, self.processor) for example in examples]
        device = self.model.soi_token.device
        batch, labels_BL = collate(
            sequences,
            self.processor,
            self.phase.learn_prompt,
            only_after_image=self.phase.only_after_image,
        )
        size = self.model.config.image_decoder.image_size
        targets = [pixels_of(image.render(size)) for image in images_of(sequences)]
        losses = joint_loss(
            self.model, batch.to(device), torch.stack(targets).to(device), labels_BL.to(device)
        )
        return {"loss": losses.total, "text": losses.text, "image": losses.image}

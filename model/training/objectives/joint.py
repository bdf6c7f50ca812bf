"""The published pre-training: text and pictures of the same sequences, all parts at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import collate, pictures_of, pixels_of, tokenise
from model.training.losses import joint_loss
from model.training.mixture import Mixture, Source
from model.training.parameters import ParameterGroup, freeze_pretrained, published_groups

JOINT_WEIGHTS = {"story": 0.5, "caption": 0.25, "text_to_image": 0.25}


class JointObjective:
    """Cross-entropy of the text, and ten times the denoising loss of every picture."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        batch_size: int = 4,
        weights: Mapping[str, float] = JOINT_WEIGHTS,
        object_set: str = "drawn",
        frozen: Collection[str] = (),
        learn_prompt: bool = True,
        seed: int = 0,
        source: Source | None = None,
        only_after_image: bool = False,
    ) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.mixture: Source = source or Mixture(weights, object_set, seed)
        self.learn_prompt, self.only_after_image = learn_prompt, only_after_image
        freeze_pretrained(model, frozen)

    @property
    def module(self) -> nn.Module:
        """The whole model."""
        return self.model

    def groups(self) -> list[ParameterGroup]:
        """Everything that is not frozen, at the published relation of rates."""
        return published_groups(self.model.named_parameters())

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The weighted sum, and both terms."""
        examples = self.mixture.draw(step, self.batch_size)
        sequences = [tokenise(example, self.processor) for example in examples]
        device = self.model.soi_token.device
        batch, labels_BL = collate(
            sequences,
            self.processor,
            self.learn_prompt,
            only_after_image=self.only_after_image,
        )
        size = self.model.config.image_decoder.image_size
        targets = [pixels_of(picture.render(size)) for picture in pictures_of(sequences)]
        losses = joint_loss(
            self.model, batch.to(device), torch.stack(targets).to(device), labels_BL.to(device)
        )
        return {"loss": losses.total, "text": losses.text, "image": losses.image}

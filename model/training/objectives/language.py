"""The language model with its synchronizers: next tokens of all six tasks.

With `image_token_weight` it trains what image tokens hold as well, before there is a decoder to
train them: each approaches the code of its place (`targets.image_tokens.codes`). Without codes the
U-Net learns slowly from uninformative tokens, and they learn slowly through the U-Net. Codes also
make the hidden states bind a word to earlier ones ("a red boat on the left"), which next-token
prediction does not require.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.mm_interleaved import Batch, MMInterleaved
from model.processor import Processor
from model.text_decoder import context
from model.training.data.batches import Tokenised, collate, of_similar_length, tokenise
from model.training.data.features import FeatureBank, features_of
from model.training.data.mixture import Source
from model.training.objectives.losses import text_loss
from model.training.parameters import ParameterGroup
from model.training.recipe import Phase
from model.training.targets.image_pool import answer_images
from model.training.targets.image_tokens.codes import code_loss
from model.training.targets.words import Ordinals
from model.training.world.facts import Facts


class LanguageObjective:
    """Cross-entropy of the text of mixed examples, by the official masking rules."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        source: Source,
        facts: Facts,
        bank: FeatureBank | None = None,
    ) -> None:
        self.module: nn.Module = model
        self.model, self.processor, self.phase, self.facts = model, processor, phase, facts
        self.source, self.bank = source, bank
        self._ordinals = Ordinals(model, processor)
        if bank is not None:
            model.visual_tokenizer.encoder.requires_grad_(False)
        if not phase.vision_rate:
            model.visual_tokenizer.requires_grad_(False)

    def groups(self) -> list[ParameterGroup]:
        """The language model and heads; the visual tokenizer at a lower rate, or frozen."""
        model = self.model
        language = [*model.mm_decoder.parameters(), *model.text_decoder.parameters()]
        language.append(model.soi_token)
        if self.phase.image_token_weight:
            language += model.context_feat_proj.parameters()
            perceiver = model.image_decoder.perceiver_resampler
            perceiver.composing_layers.requires_grad_(False)
            language += perceiver.parameters()
        groups = [ParameterGroup(tuple(p for p in language if p.requires_grad))]
        if self.phase.vision_rate:
            vision = tuple(p for p in model.visual_tokenizer.parameters() if p.requires_grad)
            groups.append(ParameterGroup(vision, self.phase.vision_rate))
        return groups

    def draw(self, step: int) -> list[Tokenised]:
        """The sequences of a step. One of eight keeps a last image and the end after it."""
        examples = self.source.draw(step, self.phase.batch_size)
        return [tokenise(e, self.processor, index % 8 > 0) for index, e in enumerate(examples)]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The weighted sum of the text loss and of the other losses that have a weight.

        With `by_answer` the text loss is the mean over answers of each answer's mean; otherwise a
        short answer counts little beside a story. The first word after each image has the weight
        `turn_weight`.
        """
        parts = [self._part(sequences) for sequences in of_similar_length(self.draw(step))]
        number = max(1.0, sum(part.text_weight for part in parts))
        text = torch.stack([part.text for part in parts]).sum() / number
        terms = {"text": text}
        loss = text
        if self.phase.image_token_weight:
            number = max(1, sum(part.num_images for part in parts))
            terms["codes"] = torch.stack([part.codes for part in parts]).sum() / number
            loss = loss + self.phase.image_token_weight * terms["codes"]
        if self.phase.ordinal_weight:
            terms["ordinals"] = torch.stack([part.ordinals for part in parts]).mean()
            loss = loss + self.phase.ordinal_weight * terms["ordinals"]
        return {"loss": loss, **terms}

    def _part(self, sequences: Sequence[Tokenised]) -> _Part:
        """The terms of some sequences."""
        device = self.model.soi_token.device
        batch, labels_BL = collate(
            sequences,
            self.processor,
            self.phase.learn_prompt,
            self.bank is None,
            self.phase.only_after_image,
        )
        batch, labels_BL = batch.to(device), labels_BL.to(device)
        visual = features_of(sequences, self.model, self.bank)
        with self._ordinals.watched() as early:
            hidden_BLD = self.model(batch, visual).hidden_BLD
        nothing = hidden_BLD.sum() * 0  # A mean over nothing would be NaN.
        weights_BL = (labels_BL != context.IGNORED).float()
        is_placeholder_BL = (
            batch.text_ids_BL[:, :-1] == self.model.config.special_tokens.image_token_id
        )
        weights_BL = weights_BL.where(~is_placeholder_BL, weights_BL * self.phase.turn_weight)
        if self.phase.by_answer:
            num_answers = [[1 + len(sequence.questions)] for sequence in sequences]
            num_tokens_B1 = weights_BL.sum(1, keepdim=True).clamp(min=1)
            weights_BL *= torch.tensor(num_answers, device=device) / num_tokens_B1
        text_weight = float(weights_BL.sum())
        text = text_loss(self.model, hidden_BLD, batch, labels_BL, weights_BL) * text_weight
        indices = answer_images(sequences) if self.phase.image_token_weight else []
        return _Part(
            text if text_weight else nothing,
            text_weight,
            self._codes_loss(hidden_BLD, batch, sequences, indices) if indices else nothing,
            len(indices),
            self._ordinals.loss(early[0], batch.text_ids_BL)
            if self.phase.ordinal_weight
            else nothing,
        )

    def _codes_loss(
        self, hidden_BLD: Tensor, batch: Batch, sequences: Sequence[Tokenised], indices: list[int]
    ) -> Tensor:
        """The sum of the code loss over images."""
        context_NKD, mask_NK = self.model.image_contexts(hidden_BLD, batch)
        perceiver = self.model.image_decoder.perceiver_resampler
        tokens_MTD = perceiver.read(context_NKD[indices], mask_NK[indices])
        images = [image for sequence in sequences for image in sequence.example.images]
        wanted = [images[index] for index in indices]
        return code_loss(tokens_MTD, wanted, self.facts, self.model.config) * len(indices)


@dataclass(frozen=True)
class _Part:
    """Sums over tokens and images of some sequences with their weights; `ordinals` is a mean."""

    text: Tensor
    text_weight: float
    codes: Tensor
    num_images: int
    ordinals: Tensor

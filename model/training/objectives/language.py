"""The language model with its synchronizers: next tokens of all six tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from model import context
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import Tokenised, collate, tokenise
from model.training.features import FeatureBank, features_of
from model.training.mixture import Mixture, Source
from model.training.trainer import ParameterGroup

PRETRAIN_WEIGHTS = {
    "story": 0.3,
    "detail_question": 0.3,
    "caption": 0.2,
    "grounding": 0.1,
    "text_to_image": 0.05,
    "segmentation_to_image": 0.05,
}
_LONGEST_TO_SHORTEST = 1.4


class LanguageObjective:
    """Cross-entropy of the text of mixed examples, by the official masking rules."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        batch_size: int = 8,
        weights: Mapping[str, float] = PRETRAIN_WEIGHTS,
        object_set: str = "drawn",
        learn_prompt: bool = True,
        vision_rate: float = 0.2,
        seed: int = 0,
        source: Source | None = None,
        bank: FeatureBank | None = None,
        only_after_image: bool = False,
    ) -> None:
        self.module: nn.Module = model
        self.model, self.processor, self.bank = model, processor, bank
        self.batch_size = batch_size
        self.mixture: Source = source or Mixture(weights, object_set, seed)
        self.learn_prompt, self.vision_rate = learn_prompt, vision_rate
        self.only_after_image = only_after_image
        if bank is not None:
            model.visual_tokenizer.encoder.requires_grad_(False)
        if not vision_rate:
            model.visual_tokenizer.requires_grad_(False)

    def groups(self) -> list[ParameterGroup]:
        """The language model and heads; the visual tokenizer at a lower rate, or frozen."""
        model = self.model
        language = [*model.mm_decoder.parameters(), *model.text_decoder.parameters()]
        language.append(model.soi_token)
        groups = [ParameterGroup(tuple(p for p in language if p.requires_grad))]
        if self.vision_rate:
            vision = tuple(p for p in model.visual_tokenizer.parameters() if p.requires_grad)
            groups.append(ParameterGroup(vision, self.vision_rate))
        return groups

    def draw(self, step: int) -> list[Tokenised]:
        """The sequences of a step."""
        examples = self.mixture.draw(step, self.batch_size)
        return [tokenise(example, self.processor) for example in examples]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Mean cross-entropy of the tokens to learn."""
        sums, counts = zip(*map(self._loss, _of_similar_length(self.draw(step))), strict=True)
        return {"loss": torch.stack(sums).sum() / max(1, sum(counts))}

    def _loss(self, sequences: Sequence[Tokenised]) -> tuple[Tensor, int]:
        """The sum over the tokens to learn of some sequences, and how many these are."""
        device = self.model.soi_token.device
        batch, labels_BL = collate(
            sequences,
            self.processor,
            self.learn_prompt,
            self.bank is None,
            self.only_after_image,
        )
        batch, labels_BL = batch.to(device), labels_BL.to(device)
        _, hidden_BLD = self.model.read(batch, features_of(sequences, self.model, self.bank))
        number = int((labels_BL != context.IGNORED).sum())
        if not number:  # The mean of nothing is not a number.
            return hidden_BLD.sum() * 0, 0
        return self.model.text_loss(hidden_BLD, batch, labels_BL) * number, number


def _of_similar_length(sequences: Sequence[Tokenised]) -> Iterator[list[Tokenised]]:
    """A step in parts, so that a question is not padded to the length of a story."""
    part: list[Tokenised] = []
    for sequence in sorted(sequences, key=lambda each: len(each.ids)):
        if part and len(sequence.ids) > _LONGEST_TO_SHORTEST * len(part[0].ids):
            yield part
            part = []
        part.append(sequence)
    yield part

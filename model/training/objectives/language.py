"""The language model with its synchronizers: next tokens of all six tasks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

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
    ) -> None:
        self.module: nn.Module = model
        self.model, self.processor, self.bank = model, processor, bank
        self.batch_size = batch_size
        self.mixture: Source = source or Mixture(weights, object_set, seed)
        self.learn_prompt, self.vision_rate = learn_prompt, vision_rate

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
        """The sequences of a step: similar lengths would bias the order, so it is plain random."""
        examples = self.mixture.draw(step, self.batch_size)
        return [tokenise(example, self.processor) for example in examples]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Mean cross-entropy of the tokens to learn."""
        sequences = self.draw(step)
        batch, labels_BL = collate(sequences, self.processor, self.learn_prompt, self.bank is None)
        if not self.vision_rate:
            self.model.visual_tokenizer.requires_grad_(False)
        _, hidden_BLD = self.model.read(batch, features_of(sequences, self.model, self.bank))
        loss = self.model.text_loss(hidden_BLD, batch, labels_BL)
        return {"loss": loss}

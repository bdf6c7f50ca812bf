"""What the image decoder is told: every fact of the picture to draw, from its image tokens.

The U-Net learns slowly from tokens that say little, and the tokens learn slowly through the U-Net.
Here the perceiver of the image decoder, and the projection of contexts before it, first learn on a
frozen language model to name everything that the picture will show. That takes minutes, and the
readout is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.mixture import Mixture
from model.training.objectives.facts import FactReadout, fact_targets
from model.training.objectives.pictures import DECODER_WEIGHTS
from model.training.objectives.targets import TargetPool, contexts_of
from model.training.trainer import ParameterGroup


class ConditionObjective:
    """Cross-entropy of the facts of a picture that is to be drawn."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        batch_size: int = 32,
        weights: Mapping[str, float] = DECODER_WEIGHTS,
        object_set: str = "drawn",
        num_pictures: int = 8000,
        seed: int = 0,
    ) -> None:
        self.model, self.batch_size = model.eval(), batch_size
        perceiver = model.config.image_decoder.perceiver
        self.facts = FactReadout(perceiver.num_queries * perceiver.hidden_size)
        self.module: nn.Module = nn.ModuleList([model, self.facts])
        source = Mixture(weights, object_set, seed)
        self.pool = TargetPool(model, processor, source, num_pictures, seed)

    def groups(self) -> list[ParameterGroup]:
        """The projection of contexts, the decoder's perceiver and the readout."""
        parts = nn.ModuleList(
            [
                self.model.context_feat_proj,
                self.model.image_decoder.perceiver_resampler,
                self.facts,
            ]
        )
        return [ParameterGroup(tuple(p for p in parts.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The mean over the facts, and how many are right."""
        known = [(t, t.scene) for t in self.pool.draw(step, self.batch_size) if t.scene is not None]
        device = self.model.soi_token.device
        hidden_NKD, mask_NK = contexts_of([target for target, _ in known], device)
        context_NKD = self.model.project_context(hidden_NKD)
        tokens_NTD = self.model.image_tokens(context_NKD, mask_NK)
        truth_NF = fact_targets([scene for _, scene in known]).to(device)
        loss, accuracy = self.facts(tokens_NTD, truth_NF)
        return {"loss": loss, "accuracy": accuracy}

"""The perceiver of the visual tokenizer on a frozen encoder: every fact from the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.training.initialise import spread_queries
from model.training.objectives.encoded_scenes import EncodedScenes, perceiver_parameters
from model.training.objectives.facts import FactReadout, fact_targets
from model.training.parameters import ParameterGroup
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer

_SHARPNESS = 1.6
_TOKEN_WIDTH = 0.05


class CondenseObjective:
    """Reads every fact from the visual tokens, whose encoder stays as it is."""

    def __init__(
        self,
        config: MMInterleavedConfig,
        tokenizer: VisualTokenizer,
        batch_size: int = 48,
        object_set: str = "drawn",
        num_pictures: int = 3000,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.facts = FactReadout(config.num_img_token * config.llm.hidden_size)
        self.module = nn.ModuleList([tokenizer, self.facts])
        self.scenes = EncodedScenes(tokenizer, num_pictures, object_set, seed)

    def groups(self) -> list[ParameterGroup]:
        """The perceiver, the projections around it, and the readout."""
        return [ParameterGroup((*perceiver_parameters(self.tokenizer), *self.facts.parameters()))]

    @cached_property
    def _targets_NF(self) -> Tensor:
        return fact_targets(self.scenes.scenes)

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts."""
        tokens_BTD, chosen_B = self.scenes.draw(step, self.batch_size)
        loss, accuracy = self.facts(tokens_BTD, self._targets_NF[chosen_B].to(tokens_BTD.device))
        return {"loss": loss, "accuracy": accuracy}


@torch.no_grad()
def spread_visual_tokens(tokenizer: VisualTokenizer) -> None:
    """Start with a perceiver that tells places apart, and with tokens as small as words."""
    spread_queries(tokenizer.perceiver_resampler, _SHARPNESS)
    nn.init.normal_(tokenizer.proj.weight, std=_TOKEN_WIDTH)

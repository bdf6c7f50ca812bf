"""A low-rank update that a pre-trained language model learns while its own weights stay (LoRA)."""

from __future__ import annotations

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer

from model.checkpoint.low_rank import Factors, Update
from model.mm_interleaved import MMInterleaved

_NAME = "default"
_MATRICES = r"layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_SCALE = 2.0


class LowRankAdapter:
    """Adds `up down` to every matrix of the language model's layers; `up` starts at zero.

    Only the two factors learn there; whatever else of the model learns, goes on doing so. Source:
    Hu et al., LoRA (2021), by the library peft.
    """

    def __init__(self, model: MMInterleaved, rank: int) -> None:
        self._language = model.mm_decoder
        before = {id(p): p.requires_grad for p in self._language.parameters()}
        config = LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules=_MATRICES)
        self._adapted = LoraModel(self._language, config, _NAME)
        for parameter in self._language.parameters():
            parameter.requires_grad_(before.get(id(parameter), True))

    @torch.no_grad()
    def merge(self) -> Update:
        """Add what was learned to the model's own matrices, and return it; the adapter is gone."""
        update = {
            f"mm_decoder.{name}.weight": Factors(
                layer.lora_A[_NAME].weight.detach().clone(),
                layer.lora_B[_NAME].weight.detach() * layer.scaling[_NAME],
            )
            for name, layer in self._language.named_modules()
            if isinstance(layer, LoraLayer)
        }
        self._adapted.merge_and_unload()
        return update

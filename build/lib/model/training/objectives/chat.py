"""Any objective, beside which the model keeps chatting like the untouched language model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.training.parameters import ParameterGroup
from model.training.targets.chat import ChatTargets, distribution
from model.training.trainer import Objective


class ChatObjective:
    """The losses of an objective, and `weight` times the divergence from the untouched model."""

    def __init__(
        self,
        objective: Objective,
        model: MMInterleaved,
        targets: ChatTargets,
        weight: float,
        batch_size: int,
    ) -> None:
        self.module: nn.Module = objective.module
        self.objective, self.model, self.targets = objective, model, targets
        self.weight, self.batch_size = weight, batch_size

    def groups(self) -> list[ParameterGroup]:
        """Those of the objective."""
        return self.objective.groups()

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The objective's terms and `chat`, in nats a token."""
        terms = self.objective.losses(step)
        chat = self.divergence(step)
        return {**terms, "loss": terms["loss"] + self.weight * chat, "chat": chat}

    def divergence(self, step: int) -> Tensor:
        """Kullback-Leibler divergence of the model from the untouched one, mean over tokens.

        All but the most likely tokens count as one.
        """
        drawn = self.targets.draw(step, self.batch_size).to(self.model.soi_token.device)
        hidden_BLD = self.model(drawn.batch).hidden_BLD
        logits_MV = self.model.text_decoder(hidden_BLD[drawn.predicts_BL])
        top_MK, rest_M = distribution(logits_MV, drawn.top_ids_MK)
        wanted_MC = torch.cat((drawn.top_MK, drawn.rest_M[:, None]), 1)
        given_MC = torch.cat((top_MK, rest_M[:, None]), 1)
        divergence: Tensor = (wanted_MC.exp() * (wanted_MC - given_MC)).sum(1).mean()
        return divergence

"""Objectives for tests, and losses that fall on one batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.mixture import Mixture
from model.training.objectives.decoder.images import ImageObjective, JointObjective
from model.training.objectives.language import LanguageObjective
from model.training.parameters import ParameterGroup
from model.training.phases import DEFAULT_WEIGHTS
from model.training.recipe import Phase
from model.training.trainer import Objective, Trainer, TrainerConfig
from model.training.world.drawn.world import DrawnWorld

WORLD = DrawnWorld()


class FixedBatch:
    """An objective that sees its first batch for ever."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.module = objective, objective.module

    def groups(self) -> list[ParameterGroup]:
        return self.objective.groups()

    def losses(self, step: int) -> Mapping[str, Tensor]:
        torch.manual_seed(0)
        return self.objective.losses(0)


def falls(objective: Objective, directory: Path, rate: float, by: float, steps: int = 12) -> None:
    config = TrainerConfig(steps=steps, learning_rate=rate, warmup_steps=1)
    trainer = Trainer(FixedBatch(objective), config, directory)
    first = trainer.run(stop_at=1)["loss"]
    assert trainer.run()["loss"] < by * first


def holds_in_half_precision(objective: Objective) -> None:
    """A step's loss in bfloat16 is that in float32, as far as bfloat16 goes."""
    batch = FixedBatch(objective)
    with torch.no_grad():
        single = float(batch.losses(0)["loss"])
        with torch.autocast("cpu", torch.bfloat16):
            half = float(batch.losses(0)["loss"])
    assert half == pytest.approx(single, rel=0.03)


def mixture(phase: str, weights: Mapping[str, float] | None = None) -> Mixture:
    return Mixture(weights or DEFAULT_WEIGHTS[phase], WORLD)


def language(
    model: MMInterleaved,
    processor: Processor,
    batch_size: int,
    weights: Mapping[str, float] | None = None,
    **settings: Any,
) -> LanguageObjective:
    phase = Phase("language", batch_size=batch_size, **settings)
    return LanguageObjective(model, processor, phase, mixture("language", weights), WORLD.told)


def images(
    model: MMInterleaved, processor: Processor, batch_size: int, **settings: Any
) -> ImageObjective:
    phase = Phase("pictures", batch_size=batch_size, **settings)
    return ImageObjective(model, processor, phase, mixture("pictures"), WORLD.told)


def joint(
    model: MMInterleaved, processor: Processor, batch_size: int, **settings: Any
) -> JointObjective:
    phase = Phase("joint", batch_size=batch_size, **settings)
    return JointObjective(model, processor, phase, mixture("joint"))

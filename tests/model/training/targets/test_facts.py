"""Facts are read from features where they apply."""

from __future__ import annotations

import random

import torch

from model.training.targets.facts import FactReadout, fact_targets
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.tasks import any_scene


def test_a_readout_learns_the_facts_of_some_scenes() -> None:
    torch.manual_seed(0)
    scenes = [any_scene(random.Random(seed), "drawn") for seed in range(16)]
    targets_NF = fact_targets(scenes, DRAWN_FACTS)
    assert (targets_NF < 0).any() and (targets_NF >= 0).any()
    readout = FactReadout(2 * 24, DRAWN_FACTS)
    features_NLD = torch.randn(16, 2, 24)
    optimizer = torch.optim.Adam(readout.parameters(), 0.03)
    _, before = readout(features_NLD, targets_NF)
    for _ in range(100):
        loss, share = readout(features_NLD, targets_NF)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 0.6 and share > 0.95

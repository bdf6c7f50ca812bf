"""The composing layers learn to turn facts into sketches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.training.data.mixture import Mixture
from model.training.objectives.decoder.sketching import SketchObjective
from model.training.recipe import Phase
from model.training.world.registry import world_of

pytestmark = pytest.mark.usefixtures("storybook_packages")


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    micro = preset("micro")
    perceiver = replace(
        micro.image_decoder.perceiver,
        num_queries=64,
        num_hidden_layers=3,
        cross_attention_frequency=3,
    )
    torch.manual_seed(0)
    decoder = replace(micro.image_decoder, perceiver=perceiver)
    return MMInterleaved(replace(micro, image_decoder=decoder))


def test_only_the_composing_layers_learn(model: MMInterleaved) -> None:
    world = world_of("storybook")
    phase = Phase("sketch", batch_size=8)
    objective = SketchObjective(model, phase, Mixture({"text_to_image": 1.0}, world), world.told)
    trained = {id(p) for group in objective.groups() for p in group.parameters}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    assert {name.split("layer.")[1][0] for name in learning} == {"1", "2"}
    parameters = [p for group in objective.groups() for p in group.parameters]
    optimizer = torch.optim.Adam(parameters, 2e-3)
    losses = []
    for _ in range(15):
        torch.manual_seed(1)
        loss = objective.losses(0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]

"""The composing layers learn to turn facts into sketches."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.mixture import Mixture
from model.training.objectives.decoder.sketching import SketchObjective
from model.training.phases import _sketch
from model.training.recipe import Phase, Recipe
from model.training.targets.image_tokens.codes import cell_vectors
from model.training.targets.image_tokens.sketches import (
    PartTargets,
    _directions,
    fetch_loss,
    look_loss,
    part_targets_of,
    position_loss,
    turn,
)
from model.training.weights.start import initialise_around
from model.training.world.registry import world_of

pytestmark = pytest.mark.usefixtures("storybook_packages")


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    micro = preset("micro")
    perceiver = replace(
        micro.image_decoder.perceiver,
        num_queries=64,
        num_hidden_layers=4,
        cross_attention_frequency=4,
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
    assert {name.split("layer.")[1][0] for name in learning} == {"1", "2", "3"}
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


def test_parts_are_told_by_their_own_targets(model: MMInterleaved) -> None:
    targets = _parts(model)
    width = model.config.image_decoder.perceiver.hidden_size
    looks_MD = targets.looks_MP @ F.normalize(_directions(width)[: targets.looks_NTP.shape[-1]])
    positions_NTD = _positions(targets, width)
    told, untold = (look_loss(share * looks_MD, targets.looks_MP) for share in (1, 0))
    assert told < 0.01 < 0.9 < untold
    told = position_loss(positions_NTD, targets)
    assert told < 0.3 * position_loss(0 * positions_NTD, targets)


def test_each_token_fetches_the_part_at_its_cell(model: MMInterleaved) -> None:
    initialise_around(model)
    layer = model.image_decoder.perceiver_resampler.composing_layers[2]
    attention = layer.attention.attention
    cells_TD = cell_vectors(64, attention.query.in_features)
    scores_TT = attention.query(cells_TD) @ attention.key(cells_TD @ turn(cells_TD.shape[1])).T
    assert torch.equal(scores_TT.argmax(1), torch.arange(64))
    targets = _parts(model)
    positions_NTD = _positions(targets, attention.query.in_features)
    loss, fetched = fetch_loss(layer, positions_NTD, targets)
    by_chance = fetch_loss(layer, 0 * positions_NTD, targets)
    assert loss < by_chance[0]
    assert fetched > 5 * by_chance[1]


def test_a_phase_goes_on_with_the_layers_that_are_there(
    model: MMInterleaved, processor: Processor
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe("micro", world_of("storybook"))
    _sketch(model, processor, recipe, Phase("sketch"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def _parts(model: MMInterleaved) -> PartTargets:
    facts, rng = world_of("storybook").told, random.Random(2)
    images = [world_of("storybook").example("text_to_image", rng).images[-1] for _ in range(4)]
    return part_targets_of(images, facts, model.config)


def _positions(targets: PartTargets, width: int) -> Tensor:
    """Tokens that hold their own cell and their part's, and nothing else."""
    cells_TD = cell_vectors(64, width)
    return cells_TD + targets.lies_NTT @ cells_TD @ turn(width)

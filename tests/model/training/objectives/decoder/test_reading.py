"""The reading layer learns from contexts that are computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.objectives.decoder import reading
from model.training.objectives.decoder.reading import ReadingObjective
from model.training.recipe import Phase
from tests.model.training.objectives.fixed_batch import (
    WORLD,
    falls,
    holds_in_half_precision,
    mixture,
)


def _objective(model: MMInterleaved, processor: Processor, **settings: int) -> ReadingObjective:
    phase = Phase("reading", batch_size=2, **settings)
    return ReadingObjective(model, processor, phase, mixture("reading"), WORLD.told)


def test_the_reading_layer_learns_and_nothing_else(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = _objective(model, processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    falls(objective, tmp_path, 2e-3, 0.95)
    holds_in_half_precision(objective)
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    learned = ("image_decoder.perceiver_resampler", "context_feat_proj")
    assert changed and all(name.startswith(learned) for name in changed)


def test_contexts_do_not_depend_on_what_is_read_beside_them(
    model: MMInterleaved, processor: Processor
) -> None:
    objective = _objective(model, processor)
    examples = objective.source.draw(0, 5)
    together = {each.image: each.hidden_KD for each in objective._contexts(examples)}
    images = [image for e in examples for image in e.images[e.num_given_images :]]
    assert together.keys() == set(images)
    for example in examples:
        for alone in objective._contexts([example]):
            torch.testing.assert_close(together[alone.image], alone.hidden_KD, atol=4e-3, rtol=0)


def test_contexts_are_kept_and_drawn_from(
    model: MMInterleaved, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_EXAMPLES", 1)
    objective = _objective(model, processor, num_pictures=5)
    sizes, losses = [], []
    for step in range(5):
        loss = objective.losses(step)["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        sizes.append(len(objective._known))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == sizes[-2] >= 5
    resumed = _objective(model, processor, num_pictures=5)
    assert float(resumed.losses(4)["loss"].detach()) == pytest.approx(losses[4])

"""The encoder learns what every cell shows."""

from __future__ import annotations

from pathlib import Path

import torch

from model.mm_interleaved import MMInterleaved
from model.training.objectives.cells import CellObjective
from model.training.recipe import Phase
from tests.model.training.objectives.fixed_batch import falls
from tests.model.training.segmented import SquareWorld


def test_cells_are_learned_by_the_encoder_alone(model: MMInterleaved, tmp_path: Path) -> None:
    tokenizer = model.visual_tokenizer
    objective = CellObjective(tokenizer, Phase("cells", batch_size=2), SquareWorld())
    perceiver = tokenizer.perceiver_resampler.queries.detach().clone()
    terms = objective.losses(0)
    assert all(term.isfinite() for term in terms.values())  # Cells without a box count nothing.
    falls(objective, tmp_path, 1e-3, 0.9)
    assert torch.equal(tokenizer.perceiver_resampler.queries, perceiver)

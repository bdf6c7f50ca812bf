from __future__ import annotations

import pytest

from model.training.world.drawable import Box, box_overlap

WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        (WHOLE, WHOLE, 1.0),
        (WHOLE, (0.5, 0.0, 1.5, 1.0), 1 / 3),
        (WHOLE, (0.25, 0.25, 0.75, 0.75), 0.25),
        (WHOLE, (2.0, 2.0, 3.0, 3.0), 0.0),
        (WHOLE, (1.0, 0.0, 2.0, 1.0), 0.0),  # Edges alone.
        (WHOLE, (0.5, 0.5, 0.5, 0.5), 0.0),  # A point.
        ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),
        (WHOLE, (1.0, 1.0, 0.0, 0.0), 0.0),  # As an untrained model answers: upside down.
    ],
)
def test_box_overlap(first: Box, second: Box, overlap: float) -> None:
    assert box_overlap(first, second) == pytest.approx(overlap)
    assert box_overlap(second, first) == pytest.approx(overlap)

"""Targets of cells."""

from __future__ import annotations

import torch

from model.training.targets.cells import UNKNOWN, cells_of
from tests.model.training.segmented import Squares, SquareWorld

_IMAGE = Squares((("red", 0, 0), ("blue", 2, 3)))


def test_every_cell_tells_what_covers_it() -> None:
    cells = cells_of([_IMAGE], SquareWorld(), 96, 8)
    what_ss, colour_ss = cells.facts_NFss[0]
    assert what_ss.sum() == 8  # Two squares of 2 x 2 cells.
    assert what_ss[:2, :2].all() and what_ss[6:, 4:6].all()
    assert colour_ss[0, 0] == 0 and colour_ss[7, 5] == 1 and colour_ss[3, 3] == UNKNOWN


def test_boxes_are_relative_to_the_middle_of_their_cell() -> None:
    cells = cells_of([_IMAGE], SquareWorld(), 96, 8)
    middle = 0.5 / 8
    expected = torch.tensor([-middle, -middle, 0.25 - middle, 0.25 - middle])
    torch.testing.assert_close(cells.boxes_N4ss[0, :, 0, 0], expected)
    assert cells.boxes_N4ss[0, :, 3, 3].isnan().all()


def test_a_sliver_does_not_count() -> None:
    coarse = cells_of([_IMAGE], SquareWorld(), 96, 1)  # A sixteenth of the only cell.
    assert coarse.facts_NFss[0, 0, 0, 0] == 0

"""What every cell of a grid shows: the thing or hero that covers most of it, its facts, its box.

Legend: N images, F facts, S side of an image, s side of a grid, 4 = left, top, right, bottom edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.training.world.drawable import SegmentedImage
from model.training.world.world import SegmentedWorld

UNKNOWN = -100
_LEAST_SHARE = 0.12  # Of a cell, from which on it shows what covers it.


@dataclass(frozen=True)
class Cells:
    """Targets of the cells of some images.

    Attributes:
        facts_NFss: index of the true value of every fact; -100 where it does not apply.
        boxes_N4ss: the edges of what the cell shows, relative to the cell's middle, in sides of
            the image; not a number where it shows nothing.
    """

    facts_NFss: Tensor
    boxes_N4ss: Tensor


def cells_of(
    images: Sequence[SegmentedImage], world: SegmentedWorld, size: int, side: int
) -> Cells:
    """The targets of grids of `side`, from images of `size` pixels."""
    rows = [_cells_of(image, world, size, side) for image in images]
    facts, boxes = zip(*rows, strict=True)
    return Cells(torch.from_numpy(np.stack(facts)), torch.from_numpy(np.stack(boxes)))


def _cells_of(
    image: SegmentedImage, world: SegmentedWorld, size: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    values = world.part_values
    owners_ss = _owners(image.instances(size), side)
    facts_Fss = np.full((len(values), side, side), UNKNOWN)
    facts_Fss[0] = 0
    boxes_4ss = np.full((4, side, side), np.nan, np.float32)
    middles = (np.arange(side, dtype=np.float32) + 0.5) / side
    for number, (truth, box) in enumerate(world.parts(image), 1):
        inside_ss = owners_ss == number
        for index, (name, known) in enumerate(values.items()):
            if name in truth:
                facts_Fss[index][inside_ss] = known.index(truth[name])
        down, across = (middles[places] for places in np.nonzero(inside_ss))
        offsets = np.array(box, np.float32)[:, None] - np.stack([across, down, across, down])
        boxes_4ss[:, inside_ss] = offsets
    return facts_Fss, boxes_4ss


def _owners(instances_SS: NDArray[np.uint8], side: int) -> NDArray[np.int64]:
    """The number of what covers most of each cell, 0 if that is too little."""
    step = len(instances_SS) // side
    blocks = instances_SS.reshape(side, step, side, step).transpose(0, 2, 1, 3)
    flat_ssP = blocks.reshape(side, side, step * step)
    numbers = range(1, int(instances_SS.max()) + 1)
    shares = [np.full((side, side), _LEAST_SHARE)]
    shares += [(flat_ssP == number).mean(-1) for number in numbers]
    return np.stack(shares).argmax(0)

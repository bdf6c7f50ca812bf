"""Images of a world that are functions of their content."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in fractions of an image's side."""


class Drawable(Protocol):
    """Anything that can be an image of an example; equal ones show the same."""

    def render(self, size: int = ...) -> Image.Image:
        """The pixels, RGB, `size` square."""
        ...


class LabelledImage(Drawable, Protocol):
    """An image whose content is known."""

    def foreground(self, size: int = ...) -> NDArray[np.bool_]:
        """Where things and heroes are, [size, size]."""
        ...


class SegmentedImage(LabelledImage, Protocol):
    """An image whose things are known one by one."""

    def instances(self, size: int = ...) -> NDArray[np.uint8]:
        """Which of its things each pixel shows: an index plus one, 0 for none, [size, size]."""
        ...


def box_overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0) for b in (first, second))
    return both / (areas - both) if areas > both else 0.0

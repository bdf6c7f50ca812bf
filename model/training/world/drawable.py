"""Images of a world that are functions of their content."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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

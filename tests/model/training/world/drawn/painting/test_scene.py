"""Scenes are their own ground truth."""

from __future__ import annotations

import random

import numpy as np

from model.training.world.drawn.painting.scene import LABELS, Scene


def test_label_map_covers_things_where_their_boxes_are() -> None:
    scene = Scene.sample(random.Random(2))
    labels = scene.label_map()
    for thing in scene.things:
        rows, columns = np.nonzero(labels == LABELS.index(thing.kind))
        x0, y0, x1, y1 = (round(96 * edge) for edge in scene.box(thing.slot))
        assert x0 <= columns.min()
        assert columns.max() < x1
        assert y0 <= rows.min()
        assert rows.max() < y1

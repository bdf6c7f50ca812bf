"""A contact sheet holds every story."""

from __future__ import annotations

import random

import numpy as np

from model.training.evaluation.sheet import contact_sheet
from model.training.world.drawn.world import DrawnWorld
from model.training.world.example import GeneratedAnswer


def test_a_sheet_grows_with_its_stories() -> None:
    examples = [DrawnWorld().example("story", random.Random(seed)) for seed in range(3)]
    answers = [
        GeneratedAnswer(
            tuple(p if isinstance(p, str) else p.render() for p in example.answer), True
        )
        for example in examples
    ]
    two, three = contact_sheet(examples[:2], answers[:2]), contact_sheet(examples, answers)
    assert three.width == two.width
    assert three.height == 2 * two.height
    assert len(np.unique(np.asarray(three.convert("L")))) > 10

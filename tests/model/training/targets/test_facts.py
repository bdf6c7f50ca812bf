"""Codes of facts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.config.schema import MMInterleavedConfig
from model.training.targets.facts import (
    code_loss,
    codes_of,
)
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.tasks import any_scene


def test_no_fact_is_missed_in_the_codes_themselves(config: MMInterleavedConfig) -> None:
    scenes = [any_scene(random.Random(seed), "drawn+emoji") for seed in range(8)]
    codes_8TD = codes_of(scenes, DRAWN_FACTS, config)
    right = code_loss(codes_8TD, scenes, DRAWN_FACTS, config).item()
    assert right < 0.1
    assert code_loss(codes_8TD.roll(1, 0), scenes, DRAWN_FACTS, config).item() > 20 * right


def test_codes_differ_where_images_do(config: MMInterleavedConfig) -> None:
    scene = any_scene(random.Random(3), "drawn")
    moved = replace(scene, background=Background("beach", "rainy", "night"))
    codes_2TD = codes_of([scene, moved], DRAWN_FACTS, config)
    number = codes_2TD.shape[1]
    is_same_T = (codes_2TD[0] == codes_2TD[1]).all(-1)
    assert is_same_T.tolist() == [index < number // 4 * 3 for index in range(number)]
    assert codes_2TD.std().item() == pytest.approx(1, abs=0.1)

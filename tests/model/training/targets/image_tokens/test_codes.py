"""Codes of facts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.config.schema import MMInterleavedConfig
from model.training.targets.image_tokens.codes import code_loss, codes_of, with_noise
from model.training.world.drawable import Drawable
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.tasks import any_scene
from model.training.world.facts import Sketch


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


def test_a_token_of_a_sketched_image_also_holds_which_cell_it_becomes(
    config: MMInterleavedConfig,
) -> None:
    scene = any_scene(random.Random(3), "drawn")

    def sketch_of(image: Drawable, num_cells: int, cell: int, /) -> Sketch:
        raise AssertionError

    facts = replace(DRAWN_FACTS, sketch_of=sketch_of)
    codes_TD = codes_of([scene], facts, config)[0]
    assert len({tuple(row) for row in codes_TD.tolist()}) == len(codes_TD)
    noisy_1TD = with_noise(codes_TD[None])
    assert 0 < (noisy_1TD - codes_TD).std() < 0.5

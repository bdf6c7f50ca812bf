"""Codes of facts."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.config.schema import MMInterleavedConfig
from model.training.targets.facts import (
    code_loss,
    codes_of,
    tokens_by_place,
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


@pytest.mark.parametrize(("row", "column", "token"), [(0, 0, 0), (3, 4, 1), (15, 15, 15)])
def test_a_token_holds_the_pixels_of_its_cell(
    config: MMInterleavedConfig, row: int, column: int, token: int
) -> None:
    scene = any_scene(random.Random(3), "drawn")
    by_place = tokens_by_place(config.image_decoder.perceiver.num_queries, DRAWN_FACTS.num_places)
    assert DRAWN_FACTS.of(scene)["right what"] == "flower"
    right = by_place[DRAWN_FACTS.places["right what"]]

    def codes(opacity: float) -> torch.Tensor:
        def picture_of(value: str, side: int) -> NDArray[np.float32] | None:
            picture = np.zeros((side, side, 4), np.float32)
            picture[row, column, 3] = opacity
            return picture if value == "flower" else None

        facts = replace(DRAWN_FACTS, picture_of=picture_of)
        return codes_of([scene], facts, config)[0]

    clear_TD, solid_TD = codes(0.0), codes(1.0)
    changed_T = (clear_TD != solid_TD).any(-1)
    assert changed_T.nonzero().flatten().tolist() == [right[token]]
    torch.testing.assert_close(solid_TD[right].var(1, correction=0), torch.ones(len(right)))

"""Codes of sketches."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config.schema import MMInterleavedConfig
from model.training.targets.image_tokens.sketches import sketch_codes_of, sketch_loss
from model.training.world.drawable import Drawable
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.tasks import any_scene
from model.training.world.facts import Facts, Sketch
from model.training.world.storybook.telling.sketch import StorybookSketcher


@pytest.mark.parametrize(("row", "column", "token"), [(0, 0, 0), (12, 17, 1), (63, 63, 27)])
def test_a_token_holds_the_look_and_the_kind_of_its_cell(
    config: MMInterleavedConfig, row: int, column: int, token: int
) -> None:
    perceiver = replace(config.image_decoder.perceiver, num_queries=64)
    config = replace(config, image_decoder=replace(config.image_decoder, perceiver=perceiver))
    scene = any_scene(random.Random(3), "drawn")

    def facts_with(thing: float = 0.0, behind: float = 0.0, kind: str = "nothing") -> Facts:
        class Painted(StorybookSketcher):
            def sketch(self, image: Drawable, num_cells: int, cell: int) -> Sketch:
                things = np.zeros((num_cells * cell, num_cells * cell, 4), np.float32)
                background = np.zeros_like(things[..., :3])
                things[row, column], background[row, column] = thing, behind
                kinds = ["nothing"] * num_cells**2
                kinds[token] = kind
                return Sketch(things, background, tuple(kinds))

        values = {**DRAWN_FACTS.values, "0 what": ("nothing", "boat")}
        return replace(DRAWN_FACTS, values=values, sketcher=Painted())

    plain = sketch_codes_of([scene], facts_with(), config)
    for facts in (facts_with(thing=1.0), facts_with(behind=1.0), facts_with(kind="boat")):
        made = sketch_codes_of([scene], facts, config)
        changed_T = (made.codes_NTD[0] != plain.codes_NTD[0]).any(-1)
        assert changed_T.nonzero().flatten().tolist() == [token]
        variances_NT = made.codes_NTD.var(-1, correction=0)
        torch.testing.assert_close(variances_NT, torch.ones_like(variances_NT))
        right, share = sketch_loss(made.codes_NTD, made, facts)
        wrong, _ = sketch_loss(-made.codes_NTD, made, facts)
        assert right < 0.2 < 3 < wrong
        assert share == (1.0 if made.kinds_NT.any() else 0.0)


def test_worlds_without_sketches_have_no_codes_of_them(config: MMInterleavedConfig) -> None:
    with pytest.raises(ValueError, match="no sketches for 77 image tokens"):
        sketch_codes_of([any_scene(random.Random(3), "drawn")], DRAWN_FACTS, config)

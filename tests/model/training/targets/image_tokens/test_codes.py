"""Codes of facts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from model.config.presets import preset
from model.config.schema import ConfigError, MMInterleavedConfig
from model.training.targets.image_tokens.codes import (
    code_loss,
    codebook_of,
    codes_of,
    fill_codebook,
    with_noise,
)
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.tasks import any_scene
from model.training.world.registry import world_of
from model.training.world.storybook.telling.sketch import StorybookSketcher
from model.visual_tokenizer.codebook import AdditiveCodebook


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
    facts = replace(DRAWN_FACTS, sketcher=StorybookSketcher())
    codes_TD = codes_of([scene], facts, config)[0]
    assert len({tuple(row) for row in codes_TD.tolist()}) == len(codes_TD)
    noisy_1TD = with_noise(codes_TD[None])
    assert 0 < (noisy_1TD - codes_TD).std() < 0.5


@pytest.mark.usefixtures("storybook_packages")
def test_the_codebook_of_storybook_tells_every_code() -> None:
    config, world = preset("storybook"), world_of("storybook")
    perceiver = config.image_decoder.perceiver
    assert perceiver.codebook == codebook_of(world.told)
    codebook = AdditiveCodebook(codebook_of(world.told), perceiver)
    fill_codebook(codebook, world.told)
    rng = random.Random(5)
    tasks = ("text_to_image", "free_request", "story", "tale", "change")
    images = [image for task in tasks for image in world.example(task, rng).images]
    codes_NTD = codes_of(images, world.told, config)
    noisy_NTD = codes_NTD + 0.3 * torch.randn_like(codes_NTD)
    torch.testing.assert_close(codebook(noisy_NTD), codes_NTD, atol=1e-5, rtol=0)


def test_a_codebook_of_other_facts_is_refused(config: MMInterleavedConfig) -> None:
    told, perceiver = world_of("storybook").told, config.image_decoder.perceiver
    with pytest.raises(ConfigError, match="has to be"):
        fill_codebook(AdditiveCodebook(codebook_of(DRAWN_FACTS), perceiver), told)
    with pytest.raises(ConfigError, match="sketches"):
        fill_codebook(AdditiveCodebook(codebook_of(DRAWN_FACTS), perceiver), DRAWN_FACTS)

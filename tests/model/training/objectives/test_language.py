"""The language model learns the tasks, and image tokens with them."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import tokenise
from model.training.data.features import FeatureBank
from model.training.data.mixture import Mixture
from model.training.objectives.language import LanguageObjective
from model.training.recipe import Phase
from model.training.trainer import Trainer, TrainerConfig
from model.training.world.drawn.tasks import TASKS
from model.training.world.drawn.world import Stock
from tests.model.training.objectives.fixed_batch import (
    WORLD,
    FixedBatch,
    falls,
    holds_in_half_precision,
    language,
)


def test_language_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"caption": 1.0, "story": 1.0}
    falls(language(model, processor, 2, weights), tmp_path, 3e-3, 0.7)


def test_visual_tokens_learn_which_image_they_belong_to(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"detail_question": 1.0}
    objective = language(model, processor, 4, weights, ordinal_weight=1.0)
    trainer = Trainer(FixedBatch(objective), TrainerConfig(20, 3e-3, warmup_steps=1), tmp_path)
    first = trainer.run(stop_at=1)["ordinals"]
    assert trainer.run()["ordinals"] < 0.5 * first


def test_a_frozen_encoder_sees_the_images_of_a_stock_once(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"caption": 1.0, "story": 1.0, "detail_question": 1.0}
    stock = Stock.of_images("test", "drawn", 8)
    bank = FeatureBank(model.visual_tokenizer, model.config.spatial_shapes)
    source = Mixture(weights, WORLD, stock=stock)
    phase = Phase("language", batch_size=4)
    objective = LanguageObjective(model, processor, phase, source, WORLD.told, bank)
    encoder = copy.deepcopy(model.visual_tokenizer.encoder.state_dict())
    fresh = LanguageObjective(model, processor, phase, source, WORLD.told).losses(0)["loss"]
    assert objective.losses(0)["loss"].item() == pytest.approx(fresh.item(), abs=2e-3)
    falls(objective, tmp_path, 3e-3, 0.8)
    holds_in_half_precision(objective)
    for name, tensor in model.visual_tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


def test_a_batch_without_anything_to_learn_is_no_accident(
    model: MMInterleaved, processor: Processor
) -> None:
    weights = {"text_to_image": 1.0}
    objective = language(model, processor, 1, weights, only_after_image=True)
    assert objective.losses(0)["loss"].isfinite()


def test_every_answer_can_count_alike_however_long_it_is(
    model: MMInterleaved, processor: Processor
) -> None:
    weights = {"story": 1.0, "detail_question": 1.0}
    objective = language(model, processor, 4, weights, by_answer=True)
    alone = [objective._part([sequence]).text.item() for sequence in objective.draw(0)]
    together = objective.losses(0)["loss"].item()
    assert together == pytest.approx(sum(alone) / 4, abs=1e-4)


def test_the_first_word_after_each_image_can_count_for_more(
    model: MMInterleaved, processor: Processor
) -> None:
    example = TASKS["story"](random.Random(4), "drawn")
    sequence = tokenise(example, processor)
    once, thrice, alone = (
        language(model, processor, 1, learn_prompt=False, turn_weight=weight)._part([sequence])
        for weight in (1.0, 3.0, 1e6)
    )
    num_turns = sum(not isinstance(part, str) for part in example.answer)
    assert num_turns > 1
    assert thrice.text_weight - once.text_weight == 2 * num_turns
    # `text` is a sum: the mean over tokens, times their weight.
    turns = alone.text / 1e6
    assert (thrice.text - once.text).item() == pytest.approx(2 * turns.item(), rel=1e-3)


def test_image_tokens_approach_the_codes_of_what_is_to_be_drawn(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"text_to_image": 1.0, "caption": 1.0}
    objective = language(model, processor, 4, weights, image_token_weight=1.0)
    unet = copy.deepcopy(model.image_decoder.decoder.unet.state_dict())
    fixed = FixedBatch(objective)
    trainer = Trainer(fixed, TrainerConfig(steps=12, learning_rate=3e-3, warmup_steps=1), tmp_path)
    first = trainer.run(stop_at=1)
    last = trainer.run()
    assert last["codes"] < 0.9 * first["codes"]
    assert last["text"] < 0.9 * first["text"]
    for name, tensor in model.image_decoder.decoder.unet.state_dict().items():
        assert torch.equal(tensor, unet[name]), name


def test_image_tokens_are_the_same_whether_an_image_is_read_or_asked_for(
    model: MMInterleaved, processor: Processor
) -> None:
    example = TASKS["segmentation_to_image"](random.Random(4), "drawn")
    objective = language(model, processor, 1, image_token_weight=1.0)
    read, asked = (
        objective._part([tokenise(example, processor, may_ask)]) for may_ask in (False, True)
    )
    assert read.num_images == asked.num_images == 1
    assert asked.codes.item() == pytest.approx(read.codes.item(), abs=1e-5)

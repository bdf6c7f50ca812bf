"""Losses fall on a fixed batch, and a resumed run is the run that was not stopped."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import tokenise
from model.training.features import FeatureBank
from model.training.mixture import Mixture
from model.training.objectives.align import AlignObjective
from model.training.objectives.codes import code_loss, codes_of
from model.training.objectives.condense import CondenseObjective, spread_visual_tokens
from model.training.objectives.facts import (
    fact_logits,
    fact_loss,
    fact_targets,
    values_by_place,
)
from model.training.objectives.joint import JointObjective
from model.training.objectives.language import LanguageObjective
from model.training.objectives.ordinals import picture_numbers
from model.training.objectives.pictures import PictureObjective
from model.training.objectives.vision import VisionObjective
from model.training.stock import Stock
from model.training.trainer import Objective, ParameterGroup, Trainer, TrainerConfig
from model.training.world.background import Background
from model.training.world.examples import TASKS, any_scene


class FixedBatch:
    """An objective that sees its first batch for ever."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.module = objective, objective.module

    def groups(self) -> list[ParameterGroup]:
        return self.objective.groups()

    def losses(self, step: int) -> Mapping[str, Tensor]:
        torch.manual_seed(0)
        return self.objective.losses(0)


def _falls(objective: Objective, directory: Path, rate: float, by: float) -> None:
    config = TrainerConfig(steps=12, learning_rate=rate, warmup_steps=1)
    trainer = Trainer(FixedBatch(objective), config, directory)
    first = trainer.run(stop_at=1)["loss"]
    assert trainer.run()["loss"] < by * first


def test_facts_are_learned_from_patches_then_from_tokens(
    model: MMInterleaved, tmp_path: Path
) -> None:
    tokenizer = model.visual_tokenizer
    vision = VisionObjective(model.config, 2, tokenizer=tokenizer)
    _falls(vision, tmp_path / "vision", 1e-3, 0.9)
    encoder = copy.deepcopy(tokenizer.encoder.state_dict())
    spread_visual_tokens(tokenizer)
    condense = CondenseObjective(model.config, tokenizer, 4, num_pictures=8)
    _falls(condense, tmp_path / "condense", 2e-3, 0.9)
    for name, tensor in tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


def test_visual_tokens_approach_the_words_of_what_they_show(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    words = model.mm_decoder.embed_tokens.weight.detach().clone()
    spread_visual_tokens(model.visual_tokenizer)
    objective = AlignObjective(model, processor, 4, num_pictures=8)
    assert len(objective._targets_NTD[0]) == model.config.num_img_token
    _falls(objective, tmp_path, 3e-3, 0.9)
    assert torch.equal(model.mm_decoder.embed_tokens.weight, words)


def test_visual_tokens_can_spell_out_what_they_show(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    spread_visual_tokens(model.visual_tokenizer)
    objective = AlignObjective(model, processor, 4, num_pictures=8, spell_out=True)
    scene = objective.scenes.scenes[0]
    (slot, *_), *_ = values_by_place(scene)
    apart_DV = objective._embeddings_VD.T - objective._mean_D[:, None]
    word = apart_DV[:, processor.encode_text(f" {slot}")].mean(1)
    torch.testing.assert_close(objective._targets_NTD[0, 0], word)
    # The targets themselves say every fact (by chance: more than 1.1 nats).
    logits = fact_logits(objective._targets_NTD, objective._words, objective._scale)
    facts = fact_loss(logits, fact_targets(objective.scenes.scenes))
    assert facts < 0.5
    _falls(objective, tmp_path, 3e-3, 0.9)


def test_too_few_visual_tokens_are_not_aligned(processor: Processor) -> None:
    small = MMInterleaved(preset("micro"))
    with pytest.raises(ValueError, match="more than 3 visual tokens"):
        AlignObjective(small, processor)


def test_language_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"caption": 1.0, "story": 1.0}
    _falls(LanguageObjective(model, processor, 2, weights), tmp_path, 3e-3, 0.7)


def test_visual_tokens_learn_which_picture_they_belong_to(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"detail_question": 1.0}
    objective = LanguageObjective(model, processor, 4, weights, ordinal_weight=1.0)
    trainer = Trainer(FixedBatch(objective), TrainerConfig(20, 3e-3, warmup_steps=1), tmp_path)
    first = trainer.run(stop_at=1)["ordinals"]
    assert trainer.run()["ordinals"] < 0.5 * first


def test_pictures_are_numbered_in_the_order_of_their_beginnings(processor: Processor) -> None:
    special = processor.special
    image = [special.soi_token_id, special.image_token_id, special.image_token_id]
    ids_1L = torch.tensor([[special.bos_token_id, *image, 9, *image, *image, 9]])
    assert picture_numbers(ids_1L, special)[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_a_frozen_encoder_sees_the_pictures_of_a_stock_once(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    weights = {"caption": 1.0, "story": 1.0, "detail_question": 1.0}
    stock = Stock.of_pictures("test", "drawn", 8)
    bank = FeatureBank(model.visual_tokenizer, model.config.spatial_shapes)
    source = Mixture(weights, "drawn", stock=stock)
    objective = LanguageObjective(model, processor, 4, source=source, bank=bank)
    encoder = copy.deepcopy(model.visual_tokenizer.encoder.state_dict())
    fresh = LanguageObjective(model, processor, 4, source=source).losses(0)["loss"]
    assert objective.losses(0)["loss"].item() == pytest.approx(fresh.item(), abs=2e-3)
    _falls(objective, tmp_path, 3e-3, 0.8)
    for name, tensor in model.visual_tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


def test_a_batch_without_anything_to_learn_is_no_accident(
    model: MMInterleaved, processor: Processor
) -> None:
    weights = {"text_to_image": 1.0}
    objective = LanguageObjective(model, processor, 1, weights, only_after_image=True)
    assert objective.losses(0)["loss"].isfinite()


def test_every_answer_can_count_alike_however_long_it_is(
    model: MMInterleaved, processor: Processor
) -> None:
    weights = {"story": 1.0, "detail_question": 1.0}
    objective = LanguageObjective(model, processor, 4, weights, by_answer=True)
    alone = [objective._part([sequence]).text.item() for sequence in objective.draw(0)]
    together = objective.losses(0)["loss"].item()
    assert together == pytest.approx(sum(alone) / 4, abs=1e-4)


def test_the_first_word_after_each_picture_can_count_for_more(
    model: MMInterleaved, processor: Processor
) -> None:
    example = TASKS["story"](random.Random(4), "drawn")
    sequence = tokenise(example, processor)
    once, thrice, alone = (
        LanguageObjective(model, processor, 1, learn_prompt=False, turn_weight=weight)._part(
            [sequence]
        )
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
    objective = LanguageObjective(model, processor, 4, weights, image_token_weight=1.0)
    unet = copy.deepcopy(model.image_decoder.decoder.unet.state_dict())
    fixed = FixedBatch(objective)
    trainer = Trainer(fixed, TrainerConfig(steps=12, learning_rate=3e-3, warmup_steps=1), tmp_path)
    first = trainer.run(stop_at=1)
    last = trainer.run()
    assert last["codes"] < 0.9 * first["codes"]
    assert last["text"] < 0.9 * first["text"]
    for name, tensor in model.image_decoder.decoder.unet.state_dict().items():
        assert torch.equal(tensor, unet[name]), name


def test_image_tokens_are_the_same_whether_a_picture_is_read_or_asked_for(
    model: MMInterleaved, processor: Processor
) -> None:
    example = TASKS["segmentation_to_image"](random.Random(4), "drawn")
    objective = LanguageObjective(model, processor, 1, image_token_weight=1.0)
    read, asked = (
        objective._part([tokenise(example, processor, may_ask)]) for may_ask in (False, True)
    )
    assert read.num_pictures == asked.num_pictures == 1
    assert asked.codes.item() == pytest.approx(read.codes.item(), abs=1e-5)


def test_no_fact_is_missed_in_the_codes_themselves(config: MMInterleavedConfig) -> None:
    scenes = [any_scene(random.Random(seed), "drawn+emoji") for seed in range(8)]
    codes_8TD = codes_of(scenes, config)
    right = code_loss(codes_8TD, scenes, config).item()
    assert right < 0.1
    assert code_loss(codes_8TD.roll(1, 0), scenes, config).item() > 20 * right


def test_image_tokens_start_by_telling_the_words_of_a_context_apart(
    config: MMInterleavedConfig, model: MMInterleaved
) -> None:
    torch.manual_seed(0)
    context_1KD = torch.randn(1, 12, config.image_decoder.perceiver.encoder_hidden_size)
    spreads = []
    for each in (MMInterleaved(config), model):
        perceiver = each.image_decoder.perceiver_resampler
        queries_1QD = perceiver.blip2qformer.layernorm(perceiver.queries)
        attention = perceiver.blip2qformer.encoder.layer[0].crossattention.attention
        spreads.append(attention(queries_1QD, context_1KD, None).std(1).mean())
    assert spreads[1] > 3 * spreads[0]


def test_codes_differ_where_pictures_do(config: MMInterleavedConfig) -> None:
    scene = any_scene(random.Random(3), "drawn")
    moved = replace(scene, background=Background("beach", "rainy", "night"))
    codes_2TD = codes_of([scene, moved], config)
    number = codes_2TD.shape[1]
    is_same_T = (codes_2TD[0] == codes_2TD[1]).all(-1)
    assert is_same_T.tolist() == [index < number // 4 * 3 for index in range(number)]
    assert codes_2TD.std().item() == pytest.approx(1, abs=0.1)


def test_a_decoder_can_learn_while_its_image_tokens_stay(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = PictureObjective(model, processor, 2, num_pictures=8, learn_tokens=False)
    perceiver = copy.deepcopy(model.image_decoder.perceiver_resampler.state_dict())
    _falls(objective, tmp_path, 1e-3, 0.98)
    for name, tensor in model.image_decoder.perceiver_resampler.state_dict().items():
        assert torch.equal(tensor, perceiver[name]), name


def test_image_tokens_can_learn_from_their_codes_beside_a_decoder(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = PictureObjective(model, processor, 2, num_pictures=20, image_token_weight=1.0)
    perceiver = model.image_decoder.perceiver_resampler
    objective.losses(0)["picture"].backward()
    assert all(parameter.grad is None for parameter in perceiver.parameters())
    trainer = Trainer(FixedBatch(objective), TrainerConfig(12, 1e-3, warmup_steps=1), tmp_path)
    first, last = trainer.run(stop_at=1), trainer.run()
    assert last["codes"] < 0.9 * first["codes"]
    assert last["picture"] < 0.98 * first["picture"]


def test_half_precision_learns_as_well(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = FixedBatch(LanguageObjective(model, processor, 2))
    config = TrainerConfig(steps=8, learning_rate=3e-3, warmup_steps=1, half=True)
    trainer = Trainer(objective, config, tmp_path)
    first = trainer.run(stop_at=1)["loss"]
    assert trainer.run()["loss"] < 0.9 * first
    assert {parameter.dtype for parameter in trainer.parameters} == {torch.float32}


def test_picture_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = PictureObjective(model, processor, 2, num_pictures=20, foreground_weight=4.0)
    _falls(objective, tmp_path, 1e-3, 0.95)
    emphasis_NHW = objective.emphasis(objective.pool.targets)
    assert abs(emphasis_NHW.mean().item() - 1) < 1e-5
    assert emphasis_NHW.amax().item() == pytest.approx(4 * emphasis_NHW.amin().item())


def test_published_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    vae = copy.deepcopy(model.image_decoder.decoder.vae.state_dict())
    language = model.mm_decoder.embed_tokens.weight.detach().clone()
    objective = JointObjective(model, processor, 2, frozen=("language",))
    _falls(objective, tmp_path, 1e-3, 0.9)
    for name, tensor in model.image_decoder.decoder.vae.state_dict().items():
        assert torch.equal(tensor, vae[name]), name
    assert torch.equal(model.mm_decoder.embed_tokens.weight, language)


def test_offsets_and_unet_learn_slower_and_gates_do_not_decay(
    model: MMInterleaved, processor: Processor
) -> None:
    groups = JointObjective(model, processor).groups()
    rule = {id(p): (g.rate_factor, g.weight_decay) for g in groups for p in g.parameters}
    of = {name: rule[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(of) == sum(len(group.parameters) for group in groups)
    assert of["mm_decoder.layers.0.llama_cross_attn.gate"] == (1.0, 0.0)
    assert {rule for name, rule in of.items() if "sampling_offsets" in name} == {(0.1, 0.0)}
    unet = {rule for name, rule in of.items() if "decoder.unet." in name}
    assert unet == {(0.1, None)}
    assert of["soi_token"] == (1.0, None)


def test_resumed_run_is_bit_exact(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    config = TrainerConfig(steps=4, learning_rate=1e-3, ema_decay=0.9, save_every=2)
    weights = {"caption": 1.0, "text_to_image": 1.0}
    other, resumed = copy.deepcopy(model), copy.deepcopy(model)

    def trainer(of: MMInterleaved, name: str) -> Trainer:
        return Trainer(LanguageObjective(of, processor, 2, weights), config, tmp_path / name)

    whole = trainer(model, "whole")
    whole.run()
    trainer(other, "parts").run(stop_at=2)
    after = trainer(resumed, "parts")
    assert after.step == 2
    after.run()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for mine, theirs in zip(whole.average, after.average, strict=True):
        assert torch.equal(mine, theirs)


def test_rate_warms_up_and_falls(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    config = TrainerConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_rate=0.1)
    trainer = Trainer(LanguageObjective(model, processor, 1), config, tmp_path)
    rates = [trainer.rate(step) for step in range(101)]
    assert rates[:10] == [(step + 1) / 10 for step in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert abs(rates[100] - 0.1) < 1e-9

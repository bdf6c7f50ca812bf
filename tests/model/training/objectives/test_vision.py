"""The visual tokenizer learns from the truth about scenes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.objectives.vision import (
    AlignObjective,
    CondenseObjective,
    VisionObjective,
    spread_visual_tokens,
)
from model.training.recipe import Phase
from model.training.targets.facts import (
    fact_logits,
    fact_loss,
    fact_targets,
)
from tests.model.training.objectives.fixed_batch import WORLD, falls


def test_facts_are_learned_from_patches_then_from_tokens(
    model: MMInterleaved, tmp_path: Path
) -> None:
    tokenizer = model.visual_tokenizer
    vision = VisionObjective(tokenizer, Phase("vision", batch_size=2), WORLD)
    falls(vision, tmp_path / "vision", 1e-3, 0.9)
    encoder = copy.deepcopy(tokenizer.encoder.state_dict())
    spread_visual_tokens(tokenizer)
    condense = CondenseObjective(tokenizer, Phase("condense", batch_size=4, num_pictures=8), WORLD)
    falls(condense, tmp_path / "condense", 2e-3, 0.9)
    for name, tensor in tokenizer.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name


def test_visual_tokens_approach_the_words_of_what_they_show(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    words = model.mm_decoder.embed_tokens.weight.detach().clone()
    spread_visual_tokens(model.visual_tokenizer)
    objective = AlignObjective(
        model, processor, Phase("align", batch_size=4, num_pictures=8), WORLD
    )
    assert len(objective._targets_NTD[0]) == model.config.num_img_token
    falls(objective, tmp_path, 3e-3, 0.9)
    assert torch.equal(model.mm_decoder.embed_tokens.weight, words)


def _spelling_out(model: MMInterleaved, processor: Processor) -> AlignObjective:
    spread_visual_tokens(model.visual_tokenizer)
    phase = Phase("align", batch_size=4, num_pictures=8, spell_out=True)
    return AlignObjective(model, processor, phase, WORLD)


def test_visual_tokens_can_spell_out_what_they_show(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = _spelling_out(model, processor)
    scene = objective.scenes.scenes[0]
    (slot, *_), *_ = WORLD.seen.words_of(scene)
    apart_DV = objective._embeddings_VD.T - objective._mean_D[:, None]
    word = apart_DV[:, processor.encode_text(f" {slot}")].mean(1)
    torch.testing.assert_close(objective._targets_NTD[0, 0], word)
    # The targets themselves say every fact (by chance: more than 1.1 nats).
    logits = fact_logits(objective._targets_NTD, objective._words, objective._scale, WORLD.seen)
    facts = fact_loss(logits, fact_targets(objective.scenes.scenes, WORLD.seen))
    assert facts < 0.5
    falls(objective, tmp_path, 3e-3, 0.9)


def test_visual_tokens_hold_the_numbers_of_their_place(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = _spelling_out(model, processor)
    places = range(WORLD.seen.num_places)
    objective.facts = replace(
        WORLD.seen, figures_of=lambda _: [[10 * place, 27] if place else [] for place in places]
    )
    figures_T = objective._figures_NT[0].tolist()
    for place, tokens in enumerate(objective._by_place):
        held = [10 * place, 27] if place else [-1, -1]
        assert figures_T[tokens.start : tokens.stop] == [*[-1] * (len(tokens) - 2), *held]
    # The vectors themselves say every number (by chance: 2.3 nats).
    vectors_NTD = objective._figure_vectors(objective._figures_NT)
    assert objective._figure_loss(vectors_NTD, objective._figures_NT) < 0.2
    assert not vectors_NTD[objective._figures_NT < 0].any()
    falls(objective, tmp_path, 3e-3, 0.9)


def test_too_few_visual_tokens_are_not_aligned(processor: Processor) -> None:
    small = MMInterleaved(preset("micro"))
    with pytest.raises(ValueError, match="2 visual tokens are too few for 4 places"):
        AlignObjective(small, processor, Phase("align"), WORLD)

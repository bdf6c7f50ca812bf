"""Learning beside the untouched language model's own answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint.packaged import low_rank
from model.checkpoint.packaged.base_model import BASES
from model.mm_interleaved import MMInterleaved
from model.training.objectives.chat import ChatObjective
from model.training.parameters import LowRankAdapter
from model.training.phases import run_phase
from model.training.recipe import Phase, Recipe
from model.training.targets.chat import untouched
from model.training.trainer import Trainer, TrainerConfig
from tests.model.training import chat_model
from tests.model.training.objectives.fixed_batch import FixedBatch, language

_RANK = 4


def perturb(model: MMInterleaved) -> LowRankAdapter:
    """Move the language model away from the untouched one, by an update that can learn."""
    adapter = LowRankAdapter(model, _RANK)
    for name, parameter in model.mm_decoder.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return adapter


def test_the_untouched_model_diverges_by_nothing_and_a_changed_one_by_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, model = chat_model.targets_of(tmp_path, monkeypatch)
    base, _, processor = chat_model.make(tmp_path)
    inner = language(model, processor, 1)
    same = ChatObjective(inner, untouched(model.config, base), targets, 1.0, 3)
    with torch.no_grad():
        assert float(same.divergence(0)) == pytest.approx(0.0, abs=1e-4)
        perturb(model)
        assert float(ChatObjective(inner, model, targets, 1.0, 3).divergence(0)) > 0.05


def test_divergence_is_weighted_beside_the_objective_and_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, model = chat_model.targets_of(tmp_path, monkeypatch)
    _, _, processor = chat_model.make(tmp_path)
    perturb(model)
    inner = language(model, processor, 1, {"caption": 1.0})
    objective = ChatObjective(inner, model, targets, 10.0, 3)
    with torch.no_grad():
        terms = objective.losses(0)
    assert float(terms["loss"]) == pytest.approx(float(terms["text"] + 10 * terms["chat"]))
    config = TrainerConfig(steps=15, learning_rate=1e-2, warmup_steps=1)
    trainer = Trainer(FixedBatch(objective), config, tmp_path / "run")
    first = trainer.run(stop_at=1)["chat"]
    assert trainer.run()["chat"] < 0.6 * first


def test_a_phase_keeps_chatting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, model = chat_model.targets_of(tmp_path, monkeypatch)
    base, _, processor = chat_model.make(tmp_path)
    monkeypatch.setitem(BASES, model.config.name, base)
    phase = Phase(
        "language",
        steps=2,
        batch_size=2,
        weights={"caption": 1.0},
        chat_weight=0.5,
        low_rank=_RANK,
    )
    recipe = Recipe(model.config.name, sft=(phase,))
    update = run_phase(model, processor, recipe, phase, tmp_path / "0-language")
    assert update and isinstance(next(iter(update.values())), low_rank.Factors)
    head, *rows = (tmp_path / "0-language" / "log.csv").read_text().splitlines()
    assert "chat" in head.split(",") and rows
    # All phases of a stage share the targets, which are those that anybody makes of this seed.
    made = (tmp_path / "chat.safetensors").stat()
    run_phase(model, processor, recipe, phase, tmp_path / "1-language")
    assert (tmp_path / "chat.safetensors").stat() == made
    assert len(targets.answers) == chat_model.NUM_REQUESTS

"""The image decoder learns on a frozen language model, or with everything else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.trainer import Trainer, TrainerConfig
from tests.model.training.objectives.fixed_batch import (
    FixedBatch,
    falls,
    holds_in_half_precision,
    images,
    joint,
)


def test_a_decoder_can_learn_while_its_image_tokens_stay(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = images(model, processor, 2, num_pictures=8, frozen=("image tokens",))
    perceiver = copy.deepcopy(model.image_decoder.perceiver_resampler.state_dict())
    falls(objective, tmp_path, 1e-3, 0.98, steps=8)
    for name, tensor in model.image_decoder.perceiver_resampler.state_dict().items():
        assert torch.equal(tensor, perceiver[name]), name


def test_image_tokens_can_learn_from_their_codes_beside_a_decoder(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = images(model, processor, 2, num_pictures=20, image_token_weight=1.0)
    perceiver = model.image_decoder.perceiver_resampler
    objective.losses(0)["picture"].backward()
    assert all(parameter.grad is None for parameter in perceiver.parameters())
    trainer = Trainer(FixedBatch(objective), TrainerConfig(8, 1e-3, warmup_steps=1), tmp_path)
    first, last = trainer.run(stop_at=1), trainer.run()
    assert last["codes"] < 0.9 * first["codes"]
    assert last["picture"] < 0.98 * first["picture"]


def test_image_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = images(model, processor, 2, num_pictures=20, foreground_weight=4.0)
    falls(objective, tmp_path, 1e-3, 0.95, steps=8)
    holds_in_half_precision(objective)
    emphasis_NHW = objective.emphasis(objective.pool.targets)
    assert abs(emphasis_NHW.mean().item() - 1) < 1e-5
    assert emphasis_NHW.amax().item() == pytest.approx(4 * emphasis_NHW.amin().item())


def test_published_loss_falls_on_a_fixed_batch(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    vae = copy.deepcopy(model.image_decoder.decoder.vae.state_dict())
    language = model.mm_decoder.embed_tokens.weight.detach().clone()
    objective = joint(model, processor, 2, frozen=("language",))
    falls(objective, tmp_path, 1e-3, 0.9, steps=8)
    for name, tensor in model.image_decoder.decoder.vae.state_dict().items():
        assert torch.equal(tensor, vae[name]), name
    assert torch.equal(model.mm_decoder.embed_tokens.weight, language)


def test_offsets_and_unet_learn_slower_and_gates_do_not_decay(
    model: MMInterleaved, processor: Processor
) -> None:
    groups = joint(model, processor, 4).groups()
    rule = {id(p): (g.rate_factor, g.weight_decay) for g in groups for p in g.parameters}
    of = {name: rule[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(of) == sum(len(group.parameters) for group in groups)
    assert of["mm_decoder.layers.0.llama_cross_attn.gate"] == (1.0, 0.0)
    assert {rule for name, rule in of.items() if "sampling_offsets" in name} == {(0.1, 0.0)}
    unet = {rule for name, rule in of.items() if "decoder.unet." in name}
    assert unet == {(0.1, None)}
    assert of["soi_token"] == (1.0, None)

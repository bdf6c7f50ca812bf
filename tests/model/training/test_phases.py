"""Phases of a recipe on a whole model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.phases import run_phase
from model.training.recipe import Phase, Recipe


def test_latents_stay_while_their_decoder_learns(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    """A U-Net that has learned to draw them goes on fitting."""
    vae = model.image_decoder.decoder.vae
    before, config = copy.deepcopy(vae.state_dict()), model.config
    run_phase(model, processor, Recipe("tiny"), Phase("autoencoder", 1, 1, 1e-3), tmp_path)
    changed = {n for n, tensor in vae.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed and all(n.startswith(("decoder.", "post_quant_conv.")) for n in changed)
    assert model.config == config


@pytest.mark.parametrize("phase", [Phase("sketch"), Phase("drawing", true_sketches=0.1)])
def test_a_world_without_sketches_is_refused_at_once(
    model: MMInterleaved, processor: Processor, tmp_path: Path, phase: Phase
) -> None:
    with pytest.raises(ConfigError, match="a world that sketches its images"):
        run_phase(model, processor, Recipe("tiny"), phase, tmp_path)

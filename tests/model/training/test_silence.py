"""A silenced synchronizer adds nothing; the other one still does."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import collate, tokenise
from model.training.silence import silence
from model.training.world.examples import TASKS


@pytest.mark.parametrize("silenced", ["text", "decoder"])
@torch.no_grad()
def test_silenced_synchronizers_read_nothing(
    silenced: str, model: MMInterleaved, processor: Processor
) -> None:
    for block in model.image_decoder.decoder.mmfs_module.blocks:
        torch.nn.init.normal_(block.conv.weight)
    sequence = tokenise(TASKS["caption"](random.Random(0), "drawn"), processor)
    batch, _ = collate([sequence], processor, learn_prompt=True)
    features = model.visual_tokenizer(batch.pixels_N3SS)
    others = replace(features, maps=tuple(2 * m + 1 for m in features.maps))

    def differs() -> dict[str, bool]:
        hidden = model(batch, features).hidden_BLD
        other = model(batch, others).hidden_BLD
        residuals = [
            block.conv(torch.ones(1, block.conv.in_channels, 2, 2)).abs().sum()
            for block in model.image_decoder.decoder.mmfs_module.blocks
        ]
        return {"text": not torch.equal(hidden, other), "decoder": bool(sum(residuals))}

    assert differs() == {"text": True, "decoder": True}
    silence(model, [silenced])
    assert differs() == {"text": silenced != "text", "decoder": silenced != "decoder"}

"""Answers do not depend on the batch; an ablated synchronizer adds nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import collate, tokenise
from model.training.evaluation.answers import (
    AnswerOptions,
    OfflineAnswerer,
    ablate,
    max_images,
)
from model.training.evaluation.images import ImageSettings
from model.training.world.drawn.tasks import TASKS

QUICK = ImageSettings(num_inference_steps=2, batch_size=2)


def test_answers_do_not_depend_on_who_shares_the_batch(
    model: MMInterleaved, processor: Processor
) -> None:
    with torch.no_grad():
        model.text_decoder.head_new.bias[0] = 200.0  # Every text begins an image at once.
    answerer = OfflineAnswerer(model.eval(), processor, AnswerOptions(QUICK))
    examples = [TASKS[name](random.Random(7), "drawn") for name in ("caption", "story")]
    together = answerer.answer(examples)
    for number, example in enumerate(examples):
        (alone,) = answerer.answer([example], first=number)
        assert alone.text == together[number].text
        assert len(alone.images) == len(together[number].images) == max_images(example)
        assert alone.ended == together[number].ended


@pytest.mark.parametrize("ablated", ["text", "decoder"])
@torch.no_grad()
def test_ablated_synchronizers_read_nothing(
    ablated: str, model: MMInterleaved, processor: Processor
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
    ablate(model, [ablated])
    assert differs() == {"text": ablated != "text", "decoder": ablated != "decoder"}

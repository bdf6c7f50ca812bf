"""A frozen encoder reads each image once."""

from __future__ import annotations

import random

import torch

from model.mm_interleaved import MMInterleaved
from model.training.data.batches import pixels_of
from model.training.data.features import EncodedScenes, FeatureBank
from model.training.world.drawn.world import DrawnWorld


@torch.no_grad()
def test_features_are_those_of_the_encoder_and_computed_once(model: MMInterleaved) -> None:
    tokenizer = model.visual_tokenizer
    size = model.config.vision.image_size
    scenes = [DrawnWorld().scene(random.Random(seed)) for seed in (1, 2)]
    wanted = tokenizer(torch.stack([pixels_of(scene.render(size)) for scene in scenes]))
    bank = FeatureBank(tokenizer)
    found = bank.features(tokenizer, scenes)
    torch.testing.assert_close(found.tokens_NTD, wanted.tokens_NTD, rtol=2e-2, atol=2e-2)
    for mine, theirs in zip(found.maps, wanted.maps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
    tokenizer.encoder.requires_grad_(False)
    for parameter in tokenizer.encoder.parameters():
        parameter.zero_()
    again = bank.features(tokenizer, scenes[::-1])
    assert torch.equal(again.tokens_NTD, found.tokens_NTD.flip(0))


def test_scenes_of_a_step_depend_on_its_number_alone(model: MMInterleaved) -> None:
    first, second = (EncodedScenes(model.visual_tokenizer, 6, DrawnWorld()) for _ in range(2))
    assert first.scenes == second.scenes
    _, chosen_B = first.draw(3, 4)
    _, other_B = second.draw(3, 4)
    assert chosen_B.tolist() == other_B.tolist()

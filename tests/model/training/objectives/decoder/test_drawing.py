"""The image decoder learns from codes, without a language model."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.training.data.answer_images import AnswerImages
from model.training.data.batches import pixels_of
from model.training.data.loading import TensorBatch
from model.training.data.mixture import InOrder, Mixture
from model.training.objectives.decoder.drawing import DrawingBatches, DrawingObjective
from model.training.recipe import Phase
from model.training.targets.image_tokens import codes
from model.training.targets.image_tokens.codes import codes_of
from model.training.targets.image_tokens.sketches import sketch_codes_of
from model.training.world.example import Example
from model.training.world.registry import world_of
from tests.model.training.objectives.fixed_batch import (
    WORLD,
    falls,
    holds_in_half_precision,
    mixture,
)


class _Story:
    """A source of one story."""

    def draw(self, step: int, number: int) -> list[Example]:
        return [WORLD.example("story", random.Random(2))] * number


def test_an_image_of_the_answer_follows_the_one_before_it(model: MMInterleaved) -> None:
    config = model.config
    batch = DrawingBatches(AnswerImages(_Story(), 8, 0), WORLD.told, config)[0]
    images = _Story().draw(0, 1)[0].images
    size, seen = config.image_decoder.image_size, config.vision.image_size
    drawn = [pixels_of(image.render(size)) for image in images]
    told = codes_of(images, WORLD.told, config)
    assert batch["visible"].all()
    for row in range(8):
        index = next(i for i, p in enumerate(drawn) if torch.equal(p, batch["pixels"][row]))
        assert index > 0
        assert torch.equal(batch["before"][row], pixels_of(images[index - 1].render(seen)))
        assert torch.equal(batch["codes"][row], told[index])


def test_an_image_of_an_anchored_answer_follows_the_users() -> None:
    [story] = _Story().draw(0, 1)
    portrait, *pages = story.images
    pairs = list(AnswerImages(InOrder([story] * 30), 30, 0, anchored=True).draw(0))
    assert len(pages) > 1 and {id(image) for image, _ in pairs} == set(map(id, pages))
    assert all(read is portrait for _, read in pairs)


def test_the_decoder_learns_and_nothing_else(model: MMInterleaved, tmp_path: Path) -> None:
    source = mixture("drawing")
    phase = Phase("drawing", batch_size=2)
    objective = DrawingObjective(model, phase, source, WORLD.told)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    falls(objective, tmp_path, 1e-3, 0.98)
    holds_in_half_precision(objective)
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    learned = ("image_decoder.decoder.unet", "image_decoder.decoder.mmfs", "image_decoder.neg")
    assert changed and all(name.startswith(learned) for name in changed)


@pytest.mark.usefixtures("storybook_packages")
def test_some_tokens_are_true_sketches(
    model: MMInterleaved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_MOST_NOISE", 0.0)
    perceiver = replace(model.config.image_decoder.perceiver, num_queries=64)
    decoder = replace(model.config.image_decoder, perceiver=perceiver)
    sketching = MMInterleaved(replace(model.config, image_decoder=decoder))
    world = world_of("storybook")
    source = Mixture({"text_to_image": 1.0}, world)
    phase = Phase("drawing", batch_size=32, true_sketches=0.5)
    objective = DrawingObjective(sketching, phase, source, world.told)
    torch.manual_seed(0)
    assert objective.losses(0)["loss"].isfinite()
    codes_NXTD = torch.stack([drawing.codes_XTD for drawing in objective._known]).float()
    images = [image for image, _ in AnswerImages(source, 32, 0).draw(0)]
    true_NTD = sketch_codes_of(images, world.told, sketching.config).codes_NTD
    torch.testing.assert_close(codes_NXTD[:, 1], true_NTD, atol=1e-2, rtol=1e-2)
    tokens_NTD = objective._tokens(codes_NXTD)
    is_true_N = (tokens_NTD == codes_NXTD[:, 1]).flatten(1).all(1)
    assert 8 <= is_true_N.sum() <= 24
    composed_NTD = sketching.image_decoder.perceiver_resampler.compose(codes_NXTD[:, 0])
    torch.testing.assert_close(tokens_NTD[~is_true_N], composed_NTD[~is_true_N])


def test_images_are_encoded_once_and_then_drawn_from(model: MMInterleaved) -> None:
    phase = Phase("drawing", batch_size=2, num_pictures=4)
    objective = DrawingObjective(model, phase, mixture("drawing"), WORLD.told)
    loaded: list[int] = []
    load = objective.loader.load

    def counted(step: int, device: torch.device) -> TensorBatch:
        loaded.append(step)
        return load(step, device)

    objective.loader.load = counted  # type: ignore[method-assign]
    for step in range(5):
        objective.losses(step)["loss"].backward()
    assert loaded == [0, 1]
    assert len(objective._known) == 4


def test_a_kept_image_is_what_the_frozen_parts_make_of_it(model: MMInterleaved) -> None:
    phase = Phase("drawing", batch_size=6)
    objective = DrawingObjective(model, phase, mixture("drawing"), WORLD.told)
    batch = objective.loader.load(0, torch.device("cpu"))
    assert batch["visible"].any() and not batch["visible"].all()
    objective.losses(0)
    for row, kept in enumerate(objective._known):
        one = slice(row, row + 1)
        with torch.no_grad():
            latents = model.image_decoder.decoder.encode(batch["pixels"][one], torch.zeros(()))
            maps = model.visual_tokenizer(batch["before"][one]).maps
        torch.testing.assert_close(kept.latents_Chw.float(), latents[0], atol=1e-2, rtol=1e-2)
        assert (kept.maps is not None) == bool(batch["visible"][row])
        for mine, true in zip(kept.maps or (), maps, strict=False):
            torch.testing.assert_close(mine.float(), true[0], atol=1e-2, rtol=1e-2)

"""The composing layers of the image perceiver, without a language model: from facts to a sketch.

Legend: N images, T image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.training.data.answer_images import AnswerImages
from model.training.data.loading import Loader, TensorBatch
from model.training.data.mixture import Source
from model.training.parameters import ParameterGroup, train_only
from model.training.recipe import Phase
from model.training.targets.image_tokens.codes import as_read, codes_of
from model.training.targets.image_tokens.sketches import (
    PartTargets,
    SketchCodes,
    fetch_loss,
    look_loss,
    part_targets_of,
    position_loss,
    sketch_codes_of,
    sketch_loss,
)
from model.training.world.facts import Facts
from model.visual_tokenizer.perceiver import QFormerLayer

_LOOK_BATCHES = 4  # Times as many images for the first layer: looks take the most examples.
_LOOK_WEIGHT = 4.0  # Of the share of looks that tokens leave open, which soon is small.
_ON_THE_WAY = 0.5  # The weight of a loss where a later layer has it as well.


@dataclass(frozen=True)
class SketchBatches:
    """The facts and the parts of images of examples' answers, and the sketches of the first."""

    images: AnswerImages
    num_sketched: int
    facts: Facts
    config: MMInterleavedConfig

    def __getitem__(self, step: int) -> TensorBatch:
        """What tokens hold, [N, T, D], and what they shall become."""
        images = [image for image, _ in self.images.draw(step)]
        parts = part_targets_of(images, self.facts, self.config)
        targets = sketch_codes_of(images[: self.num_sketched], self.facts, self.config)
        return {
            "facts": codes_of(images, self.facts, self.config),
            "looks": parts.looks_NTP,
            "lies": parts.lies_NTT,
            "codes": targets.codes_NTD,
            "kinds": targets.kinds_NT,
        }


class SketchObjective:
    """Distance and kinds of every cell (`sketch_loss`), from codes of facts.

    The first layer learns what parts of things look like, from more images than the others; the
    second where they lie; the third to fetch them.
    """

    def __init__(
        self,
        model: MMInterleaved,
        phase: Phase,
        source: Source,
        facts: Facts,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.model, self.facts = model, facts
        self.perceiver = model.image_decoder.perceiver_resampler
        self.module: nn.Module = self.perceiver
        images = AnswerImages(source, _LOOK_BATCHES * phase.batch_size, seed)
        batches = SketchBatches(images, phase.batch_size, facts, model.config)
        self.number = phase.batch_size
        self.loader = Loader(batches, workers)
        train_only(model, [self.perceiver.composing_layers])

    def groups(self) -> list[ParameterGroup]:
        """The layers that do not read the context."""
        return [ParameterGroup(tuple(self.perceiver.composing_layers.parameters()))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The loss of a step and its parts, and the right shares of attention and of kinds."""
        batch = self.loader.load(step, self.perceiver.queries.device)
        parts = PartTargets(batch["looks"], batch["lies"])
        layers = cast(Iterable[QFormerLayer], self.perceiver.composing_layers)
        looking, placing, *others = layers
        facts_NTD = as_read(batch["facts"], self.perceiver)
        hidden_NTD = looking.attention(facts_NTD, facts_NTD, None)
        looks = look_loss(looking.feed_forward(hidden_NTD[parts.has_NT]), parts.looks_MP)
        parts = parts.first(self.number)
        hidden_NTD = placing(looking.feed_forward(hidden_NTD[: self.number]), None, None)
        kept_looks = look_loss(hidden_NTD[parts.has_NT], parts.looks_MP)
        positions = position_loss(hidden_NTD, parts)
        loss = _LOOK_WEIGHT * (looks + kept_looks) + positions
        targets = SketchCodes(batch["codes"], batch["kinds"])
        fetch, fetched = fetch_loss(others[0], hidden_NTD, parts)
        loss = loss + fetch
        for layer in others:
            hidden_NTD = layer(hidden_NTD, None, None)
            cells, share = sketch_loss(hidden_NTD, targets, self.facts)
            loss = loss + (cells if layer is others[-1] else _ON_THE_WAY * cells)
        return {
            "loss": loss,
            "looks": looks,
            "positions": positions,
            "fetched": fetched,
            "cells": cells,
            "kinds": share,
        }

"""The composing layers of the image perceiver, without a language model: from facts to a sketch.

Legend: N images, T image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.training.data.answer_images import AnswerImages
from model.training.data.loading import Loader, TensorBatch
from model.training.data.mixture import Source
from model.training.parameters import ParameterGroup, train_only
from model.training.recipe import Phase
from model.training.targets.image_tokens.codes import codes_of, with_noise
from model.training.targets.image_tokens.sketches import SketchCodes, sketch_codes_of, sketch_loss
from model.training.world.facts import Facts


@dataclass(frozen=True)
class SketchBatches:
    """The facts and the sketch of an image of each example's answer."""

    images: AnswerImages
    facts: Facts
    config: MMInterleavedConfig

    def __getitem__(self, step: int) -> TensorBatch:
        """What tokens hold, [N, T, D], what they shall become, and the kinds of cells, [N, T]."""
        images = [image for image, _ in self.images.draw(step)]
        targets = sketch_codes_of(images, self.facts, self.config)
        return {
            "facts": codes_of(images, self.facts, self.config),
            "codes": targets.codes_NTD,
            "kinds": targets.kinds_NT,
        }


class SketchObjective:
    """Distance and kinds of every cell (`sketch_loss`), from noisy codes of facts."""

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
        images = AnswerImages(source, phase.batch_size, seed)
        batches = SketchBatches(images, facts, model.config)
        self.loader = Loader(batches, workers)
        train_only(model, [self.perceiver.composing_layers])

    def groups(self) -> list[ParameterGroup]:
        """The layers that do not read the context."""
        return [ParameterGroup(tuple(self.perceiver.composing_layers.parameters()))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The loss of a step, and the share of cells with a thing whose kind is right."""
        batch = self.loader.load(step, self.perceiver.queries.device)
        tokens_NTD = self.perceiver.compose(with_noise(batch["facts"]))
        targets = SketchCodes(batch["codes"], batch["kinds"])
        loss, share = sketch_loss(tokens_NTD, targets, self.facts)
        return {"loss": loss, "kinds": share}

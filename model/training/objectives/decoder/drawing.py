"""The image decoder without a language model: it draws from the codes of what examples tell.

Codes (`targets.image_tokens.codes`) are what the perceiver will read, so no language model has to.
What the words do not tell, such as the look of a story's hero, is only in the earlier image whose
maps the synchronizer reads.

Legend: N images, M of them that read one, X codes of an image, T tokens, D width, S side of an
image, h, w latents, s side of a map.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.training.data.answer_images import AnswerImages
from model.training.data.batches import pixels_of
from model.training.data.loading import Loader, TensorBatch
from model.training.data.mixture import Source
from model.training.objectives.losses import TrainingNoise, denoising_error
from model.training.parameters import ParameterGroup, train_only
from model.training.recipe import Phase
from model.training.targets.image_pool import (
    emphasis_of,
    foreground_of,
    maps_before,
    stack_kept,
)
from model.training.targets.image_tokens.codes import as_read, codes_of, with_noise
from model.training.targets.image_tokens.sketches import sketch_codes_of
from model.training.world.facts import Facts


@dataclass(frozen=True)
class DrawingBatches:
    """Images of answers, and the image that each reads."""

    images: AnswerImages
    facts: Facts
    config: MMInterleavedConfig
    with_sketches: bool = False

    def __getitem__(self, step: int) -> TensorBatch:
        """Pixels and codes of the images, weights' places, and pixels of the images that they read.

        With sketches also what the image tokens shall become (`sketch_codes_of`).
        """
        size, seen = self.config.image_decoder.image_size, self.config.vision.image_size
        side = int(self.config.image_decoder.unet["sample_size"])
        wanted, before = zip(*self.images.draw(step), strict=True)
        blank_3SS = torch.zeros(3, seen, seen)
        batch = {
            "pixels": torch.stack([pixels_of(image.render(size)) for image in wanted]),
            "codes": codes_of(wanted, self.facts, self.config),
            "foreground": torch.stack([foreground_of(image, side) for image in wanted]),
            "before": torch.stack([pixels_of(p.render(seen)) if p else blank_3SS for p in before]),
            "visible": torch.tensor([[p is not None] for p in before]),
        }
        if self.with_sketches:
            batch["sketches"] = sketch_codes_of(wanted, self.facts, self.config).codes_NTD
        return batch


@dataclass(frozen=True)
class _Drawing:
    """An image to learn, with all that is constant while the other parts are frozen, in float16.

    Attributes:
        codes_XTD: of facts, and also of the sketch if the phase draws from sketches.
        maps: of the image that it reads, [D, s, s] of each level; None without one.
    """

    latents_Chw: Tensor
    codes_XTD: Tensor
    foreground_hw: Tensor
    maps: tuple[Tensor, ...] | None


class DrawingObjective:
    """The official denoising loss, with codes in place of image tokens.

    With a codebook image tokens will be as clean as codes, without one codes get noise.

    The first `num_pictures` images are new; they are kept, encoded, and drawn from at random for
    the other steps, which saves almost half the time of a step. A run that resumes later begins
    with new images again.
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
        self.model, self.phase, self.seed = model.eval(), phase, seed
        self.module: nn.Module = _Parts(model)
        anchored = model.config.image_decoder.anchored
        images = AnswerImages(source, phase.batch_size, seed, anchored)
        batches = DrawingBatches(images, facts, model.config, with_sketches=phase.true_sketches > 0)
        self.loader = Loader(batches, workers)
        self._known: list[_Drawing] = []
        decoder = model.image_decoder
        parts = (decoder.decoder.unet, decoder.decoder.mmfs_module, decoder.neg_prompt_embeds)
        train_only(model, [part for part in parts if part is not None])

    def groups(self) -> list[ParameterGroup]:
        """The U-Net, its synchronizer, and the tokens of an image without a condition."""
        return [ParameterGroup(tuple(p for p in self.model.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The denoising loss; places with a thing have the weight `foreground_weight`."""
        decoder = self.model.image_decoder
        device = self.model.soi_token.device
        drawings = self._drawings(step, device)
        noise = TrainingNoise.draw(len(drawings), decoder.config, device)
        tokens_NTD = self._tokens(stack_kept([drawing.codes_XTD for drawing in drawings], device))
        before = [drawing.maps for drawing in drawings]
        maps, visible_N1 = maps_before(before, self.model.config.vision, device)
        latents_NChw = stack_kept([drawing.latents_Chw for drawing in drawings], device)
        error_Nhw = denoising_error(decoder, latents_NChw, tokens_NTD, maps, visible_N1, noise)
        foregrounds = [drawing.foreground_hw for drawing in drawings]
        emphasis_Nhw = emphasis_of(foregrounds, self.phase.foreground_weight).to(device)
        return {"loss": (error_Nhw * emphasis_Nhw).mean()}

    @torch.no_grad()
    def _tokens(self, codes_NXTD: Tensor) -> Tensor:
        """What the perceiver composes of facts or, for some images, their true sketches."""
        perceiver = self.model.image_decoder.perceiver_resampler
        tokens_NTD = perceiver.compose(as_read(codes_NXTD[:, 0], perceiver))
        if codes_NXTD.shape[1] == 1:
            return tokens_NTD
        share_N11 = torch.rand(len(tokens_NTD), 1, 1, device=tokens_NTD.device)
        is_true_N11 = share_N11 < self.phase.true_sketches
        return torch.where(is_true_N11, with_noise(codes_NXTD[:, 1]), tokens_NTD)

    def _drawings(self, step: int, device: torch.device) -> Sequence[_Drawing]:
        """New images until `num_pictures` are known, then some of those."""
        if len(self._known) >= self.phase.num_pictures:
            rng = random.Random(f"known/{self.seed}/{step}")
            return rng.sample(self._known, self.phase.batch_size)
        new = self._encode(self.loader.load(step, device))
        self._known += new
        return new

    @torch.no_grad()
    def _encode(self, batch: Mapping[str, Tensor]) -> list[_Drawing]:
        mean = torch.zeros((), device=batch["pixels"].device)
        latents_NChw = self.model.image_decoder.decoder.encode(batch["pixels"], mean)
        visible_N = batch["visible"][:, 0]
        maps = tuple(
            level_MDss.new_zeros(len(visible_N), *level_MDss.shape[1:]).masked_scatter(
                visible_N[:, None, None, None], level_MDss
            )
            for level_MDss in self.model.visual_tokenizer(batch["before"][visible_N]).maps
        )
        before = zip(*(level.half().cpu().unbind() for level in maps), strict=True)
        kinds_of_codes = [batch[name] for name in ("codes", "sketches") if name in batch]
        codes_NXTD = torch.stack(kinds_of_codes, 1)
        columns = [x.half().cpu().unbind() for x in (latents_NChw, codes_NXTD)]
        rows = zip(*columns, batch["foreground"].cpu(), before, visible_N.tolist(), strict=True)
        return [
            _Drawing(latents_Chw, codes_XTD, foreground_hw, row if is_visible else None)
            for latents_Chw, codes_XTD, foreground_hw, row, is_visible in rows
        ]


class _Parts(nn.Module):
    """The parts of a model that this objective needs on the device."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.image_decoder, self.visual_tokenizer = model.image_decoder, model.visual_tokenizer
        self.soi_token = model.soi_token

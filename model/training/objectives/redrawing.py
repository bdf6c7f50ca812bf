"""Maps of pictures as the model itself draws them, for decoders to copy from.

While a story is told, every picture is copied from one that was drawn, faults included. A decoder
that has only seen true pictures before adds its faults to them, page after page (exposure bias;
Bengio et al., arXiv 1506.03099).

Legend: N pictures, D width, s side of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from model.image_decoder.sampler import ImageSampler, initial_noise
from model.mm_interleaved import MMInterleaved
from model.processor import Processor, to_image
from model.synchronizer.unet_synchronizer import flatten_maps
from model.training.objectives.codes import codes_of
from model.training.world.scene import Scene
from model.visual_tokenizer.visual_tokenizer import VisualFeatures

_STEPS = 8
_GUIDANCE = 3.0
_SCHEDULER = "dpmsolver++"


class Redrawer:
    """Draws with the weights that the model has now, whatever it learns later.

    So what is drawn depends on a phase's start alone, and a killed run can go on exactly.
    """

    def __init__(self, model: MMInterleaved, processor: Processor, seed: int) -> None:
        self.model, self.processor = model, processor
        self._decoder = copy.deepcopy(model.image_decoder)
        self.generator = torch.Generator().manual_seed(seed)

    @cached_property
    def sampler(self) -> ImageSampler:
        """Of the decoder as it was, on the device that the model is on by now."""
        return self._decoder.to(self.model.soi_token.device).sampler()

    @torch.no_grad()
    def redraw(
        self, maps: Sequence[Tensor], previous_N: Sequence[int], scenes: dict[int, Scene]
    ) -> tuple[Tensor, ...]:
        """Maps in which some pictures are as drawn, each from the one before it as drawn.

        Args:
            maps: of true pictures, [N, D, s, s] of each level.
            previous_N: which picture comes before each, -1 for none.
            scenes: of the pictures to redraw, by index; drawn from the scenes' codes.
        """
        redrawn = tuple(map_NDss.float() for map_NDss in maps)
        todo = dict(scenes)
        with torch.autocast(maps[0].device.type, enabled=False):  # Samplers choose their own type.
            while todo:
                # Of each story the first picture that is left.
                ready = [index for index in todo if previous_N[index] not in todo]
                drawn = self._maps([todo.pop(index) for index in ready], redrawn, previous_N, ready)
                redrawn = tuple(
                    level_NDss.index_copy(
                        0, torch.tensor(ready, device=level_NDss.device), new_MDss
                    )
                    for level_NDss, new_MDss in zip(redrawn, drawn, strict=True)
                )
        return redrawn

    def _maps(
        self,
        scenes: Sequence[Scene],
        maps: Sequence[Tensor],
        previous_N: Sequence[int],
        indices: Sequence[int],
    ) -> tuple[Tensor, ...]:
        before = [previous_N[index] for index in indices]
        visible_N1 = torch.tensor([[index >= 0] for index in before], device=maps[0].device)
        sampler = self.sampler
        prepared = sampler.prepare(
            codes_of(scenes, self.model.config).to(maps[0].device),
            flatten_maps(
                [
                    map_NDss[before].unsqueeze(1) * visible_N1[..., None, None, None]
                    for map_NDss in maps
                ]
            ),
            visible_N1,
        )
        latents_NCHW = sampler.denoise(
            initial_noise(sampler.config, self.generator, len(scenes)),
            sampler.join([prepared], guided=True),
            self.generator,
            _STEPS,
            _GUIDANCE,
            scheduler=_SCHEDULER,
        )
        pictures = [to_image(pixels_3SS) for pixels_3SS in sampler.decode(latents_NCHW)]
        pixels_N3SS = torch.stack([self.processor.pixels(picture) for picture in pictures])
        features: VisualFeatures = self.model.visual_tokenizer(pixels_N3SS.to(maps[0].device))
        return features.maps

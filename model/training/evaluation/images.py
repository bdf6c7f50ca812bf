"""Images of many stories in one batch; the same as offline generation makes one by one.

Legend: B stories, L tokens, S side of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.image_decoder.sampler import initial_noise
from model.mm_interleaved import Batch, MMInterleaved
from model.offline.generation import image_conditions
from model.processor import to_image
from model.synchronizer.unet_synchronizer import flatten_maps


@dataclass(frozen=True)
class ImageSettings:
    """Settings of generation. An image depends on its seed, not on its batch.

    Without a `guidance_scale` it is the checkpoint's.
    """

    num_inference_steps: int = 20
    guidance_scale: float | None = None
    scheduler: str = "dpmsolver++"
    batch_size: int = 8


@dataclass(frozen=True)
class Unfinished:
    """A sequence that ends with the placeholders of an image to generate.

    `pixels_N3SS` has an entry for that image too, of any value. `num_given` of the images come
    before the answer.
    """

    input_ids: tuple[int, ...]
    pixels_N3SS: Tensor
    num_given: int
    seed: int


class ImageGenerator:
    """Generates the last images of sequences with the present weights of a model."""

    def __init__(self, model: MMInterleaved, options: ImageSettings) -> None:
        self.model, self.options = model, options
        self.sampler = model.image_decoder.sampler()

    def generate(self, stories: Sequence[Unfinished]) -> list[Image.Image]:
        """An image for every story."""
        images: list[Image.Image] = []
        for start in range(0, len(stories), self.options.batch_size):
            images += self._generate(stories[start : start + self.options.batch_size])
        return images

    @torch.no_grad()
    def _generate(self, stories: Sequence[Unfinished]) -> list[Image.Image]:
        batch = join(stories, self.model.config.special_tokens.pad_token_id)
        last_B = batch.num_images_B.cumsum(0) - 1
        conditions = image_conditions(self.model, batch, last_B)
        tokens_BTD = self.model.image_tokens(conditions.context_NKD, conditions.context_mask_NK)
        sampler, options = self.sampler, self.options
        guidance = sampler.config.guidance_of(options.guidance_scale)
        generators = [torch.Generator().manual_seed(story.seed) for story in stories]
        prepared = sampler.prepare(tokens_BTD, flatten_maps(conditions.maps), conditions.visible_N1)
        latents_BCHW = sampler.denoise(
            torch.cat([initial_noise(sampler.config, generator) for generator in generators]),
            sampler.join([prepared], guided=guidance > 1),
            generators[0],
            options.num_inference_steps,
            guidance,
            scheduler=options.scheduler,
        )
        return [to_image(pixels_3SS) for pixels_3SS in sampler.decode(latents_BCHW)]


def join(stories: Sequence[Unfinished], pad_token_id: int) -> Batch:
    """One batch, padded on the right."""
    rows = [torch.tensor(story.input_ids) for story in stories]
    ids_BL = pad_sequence(rows, batch_first=True, padding_value=pad_token_id)
    lengths_B1 = torch.tensor([[len(row)] for row in rows])
    mask_BL = (torch.arange(ids_BL.shape[1]) < lengths_B1).long()
    pixels_N3SS = torch.cat([story.pixels_N3SS for story in stories])
    counts_B = torch.tensor([len(story.pixels_N3SS) for story in stories])
    given_B = torch.tensor([story.num_given for story in stories])
    return Batch(ids_BL, pixels_N3SS, counts_B, mask_BL, num_given_B=given_B)

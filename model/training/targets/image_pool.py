"""Images to learn with a frozen language model, whose inputs are computed once.

Contexts, feature maps and latents of an example are constant while language model, visual tokenizer
and autoencoder are frozen. They are computed when an example enters the pool, and used several
times.

Legend: N images, M images to learn, K context length, C latent channels, D width, s side of a map,
S side of an image, h, w latent grid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.config.schema import VisionConfig
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.text_decoder import context
from model.training.data.batches import Tokenised, collate, images_of, pixels_of, tokenise
from model.training.data.features import FeatureBank, features_of
from model.training.data.mixture import Source
from model.training.world.drawable import Drawable

_CHUNK = 24
_SUB_BATCH = 8
_STEPS_PER_CHUNK = 10
_FIRST_CHUNKS = 2


@dataclass(frozen=True)
class Target:
    """An image to learn, with the inputs of the decoder in float16."""

    hidden_KD: Tensor
    previous: tuple[Tensor, ...] | None
    latents_CHW: Tensor
    foreground_HW: Tensor
    image: Drawable


class TargetPool:
    """Targets of the answers of a source's examples; it grows with the steps."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        source: Source,
        num_images: int,
        seed: int = 0,
        bank: FeatureBank | None = None,
    ) -> None:
        self.model, self.processor, self.source, self.bank = model, processor, source, bank
        self.num_images, self.seed = num_images, seed
        self.targets: list[Target] = []
        self._num_chunks = 0

    def draw(self, step: int, number: int) -> list[Target]:
        """The targets of a step, a function of its number alone."""
        wanted = _FIRST_CHUNKS + step // _STEPS_PER_CHUNK
        while self._num_chunks < wanted and len(self.targets) < self.num_images:
            if not self._grow():
                break
        return random.Random(f"targets/{self.seed}/{step}").choices(self.targets, k=number)

    def _grow(self) -> bool:
        """Add the targets of one chunk of examples; false if the source has no more."""
        examples = self.source.draw(self._num_chunks, _CHUNK)
        sequences = [tokenise(example, self.processor) for example in examples]
        for start in range(0, len(sequences), _SUB_BATCH):
            self.targets += self._targets(sequences[start : start + _SUB_BATCH])
        self._num_chunks += 1
        return bool(examples)

    @torch.no_grad()
    def _targets(self, sequences: list[Tokenised]) -> list[Target]:
        """The images of the answers of some sequences."""
        special = self.model.config.special_tokens
        indices = answer_images(sequences)
        if not indices:
            return []
        device = self.model.soi_token.device
        batch, _ = collate(sequences, self.processor, True, self.bank is None)
        batch = batch.to(device)
        output = self.model(batch, features_of(sequences, self.model, self.bank))
        contexts_NKD, mask_NK = context.image_contexts(
            output.hidden_BLD, batch.text_ids_BL, special
        )
        previous_N = self.model.previous_images(batch).tolist()
        size = self.model.config.image_decoder.image_size
        images = images_of(sequences)
        pixels = torch.stack([pixels_of(images[index].render(size)) for index in indices])
        encode = self.model.image_decoder.decoder.encode
        latents_MCHW = encode(pixels.to(device), torch.zeros((), device=device)).half().cpu()
        before = [previous_N[index] for index in indices]
        visible_M1 = torch.tensor([[index >= 0] for index in before], device=device)
        maps = tuple(level[before] * visible_M1[..., None, None] for level in output.visual.maps)
        rows = zip(*(level_MDss.half().cpu().unbind() for level_MDss in maps), strict=True)
        targets: list[Target] = []
        for latents_CHW, index, row in zip(latents_MCHW, indices, rows, strict=True):
            hidden_KD = contexts_NKD[index, : int(mask_NK[index].sum())].half().cpu()
            previous = row if previous_N[index] >= 0 else None
            foreground_HW = foreground_of(images[index], latents_CHW.shape[-1])
            targets.append(Target(hidden_KD, previous, latents_CHW, foreground_HW, images[index]))
        return targets


def contexts_of(hidden_states: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Some contexts, [K, D] each, padded: [N, K, D], and their extent [N, K]."""
    hidden_NKD = pad_sequence([hidden_KD.float() for hidden_KD in hidden_states], True)
    lengths_N1 = torch.tensor([[len(hidden_KD)] for hidden_KD in hidden_states])
    mask_NK = torch.arange(hidden_NKD.shape[1]) < lengths_N1
    return hidden_NKD.to(device), mask_NK.long().to(device)


def stack_kept(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors that are kept in float16 as one in float32, on a device."""
    # Float32 first: a CPU's autocast stacks no float16.
    return torch.stack([tensor.float() for tensor in tensors]).to(device)


def maps_before(
    previous: Sequence[tuple[Tensor, ...] | None], vision: VisionConfig, device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The maps of earlier images, [N, 1, D, s, s], zeros without one; and whether there is one.

    Args:
        previous: maps [D, s, s] of each level in float16, None without an earlier image.
        vision: of the model whose maps they are.
        device: where to.
    """
    zeros = tuple(torch.zeros(vision.hidden_size, s, s).half() for s in vision.map_sizes)
    levels = zip(*(maps or zeros for maps in previous), strict=True)
    stacked = tuple(stack_kept(level, device).unsqueeze(1) for level in levels)
    return stacked, torch.tensor([[maps is not None] for maps in previous], device=device)


def emphasis_of(foregrounds: Sequence[Tensor], weight: float) -> Tensor:
    """The weight of every place of the latents, [N, h, w], with a mean of 1.

    Args:
        foregrounds: the places with a thing or a hero, [h, w] of each image (`foreground_of`).
        weight: of those places relative to the others.
    """
    emphasis_Nhw = 1 + (weight - 1) * torch.stack([x.float() for x in foregrounds])
    return emphasis_Nhw / emphasis_Nhw.mean()


def answer_images(sequences: Sequence[Tokenised]) -> list[int]:
    """The indices of the images that belong to answers, requested ones included."""
    is_answer = [
        number >= sequence.example.num_given_images
        for sequence in sequences
        for number in range(len(sequence.example.images))
    ]
    return [index for index, flag in enumerate(is_answer) if flag]


def foreground_of(image: Drawable, side: int) -> Tensor:
    """The places of the latents with a thing or a hero, [side, side]; none if unknown."""
    known = getattr(image, "foreground", None)
    if known is None:
        return torch.zeros(side, side, dtype=torch.bool)
    return F.adaptive_max_pool2d(torch.from_numpy(known()).half()[None], side)[0].bool()

"""Pictures to learn on a frozen language model: whatever does not change is computed once.

Contexts, feature maps and latents of an example never change while the language model, the visual
tokenizer and the autoencoder are frozen. They are computed when an example enters the pool, and
each is then used several times.

Legend: N pictures, K context length, C latent channels, D width, h, w latent grid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.text_decoder import context
from model.training.data import Tokenised, collate, pictures_of, pixels_of, tokenise
from model.training.features import FeatureBank, features_of
from model.training.mixture import Source
from model.training.objectives.redrawing import Redrawer
from model.training.world.examples import Drawable, Picture
from model.training.world.scene import LABELS, Scene

_CHUNK = 24
_SUB_BATCH = 8
_STEPS_PER_CHUNK = 10
_FIRST_CHUNKS = 2


@dataclass(frozen=True)
class Target:
    """A picture to learn, with what the decoder reads. Halves in float16."""

    hidden_KD: Tensor
    previous: tuple[Tensor, ...] | None
    latents_CHW: Tensor
    foreground_HW: Tensor
    picture: Drawable


class TargetPool:
    """Targets of the answers of a source's examples; it grows with the steps.

    Of a share of the examples (`redrawn`), pictures of the answer are copied from ones before them
    as the model draws them.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        source: Source,
        num_pictures: int,
        seed: int = 0,
        bank: FeatureBank | None = None,
        redrawn: float = 0.0,
    ) -> None:
        self.model, self.processor, self.source, self.bank = model, processor, source, bank
        self.redrawn = redrawn
        self.redrawer = Redrawer(model, processor, seed) if redrawn else None
        self.num_pictures, self.seed = num_pictures, seed
        self.targets: list[Target] = []
        self._num_chunks = 0

    def draw(self, step: int, number: int) -> list[Target]:
        """The targets of a step, a function of its number alone."""
        wanted = _FIRST_CHUNKS + step // _STEPS_PER_CHUNK
        while self._num_chunks < wanted and len(self.targets) < self.num_pictures:
            if not self._grow():
                break
        return random.Random(f"targets/{self.seed}/{step}").choices(self.targets, k=number)

    def _grow(self) -> bool:
        """Add the targets of one chunk of examples; false if the source has no more."""
        examples = self.source.draw(self._num_chunks, _CHUNK)
        sequences = [tokenise(example, self.processor) for example in examples]
        rng = random.Random(f"redrawn/{self.seed}/{self._num_chunks}")
        for start in range(0, len(sequences), _SUB_BATCH):
            redraws = rng.random() < self.redrawn
            self.targets += self._targets(sequences[start : start + _SUB_BATCH], redraws)
        self._num_chunks += 1
        return bool(examples)

    @torch.no_grad()
    def _targets(self, sequences: list[Tokenised], redraws: bool) -> list[Target]:
        """The pictures of the answers of some sequences."""
        special = self.model.config.special_tokens
        indices = answer_pictures(sequences)
        if not indices:
            return []
        device = self.model.soi_token.device
        batch, _ = collate(sequences, self.processor, True, self.bank is None)
        batch = batch.to(device)
        output = self.model(batch, features_of(sequences, self.model, self.bank))
        contexts_NKD, mask_NK = context.image_contexts(
            output.hidden_BLD, batch.text_ids_BL, special
        )
        previous_N = context.previous_images(batch.text_ids_BL, special).tolist()
        size = self.model.config.image_decoder.image_size
        pictures = pictures_of(sequences)
        pixels = torch.stack([pixels_of(pictures[index].render(size)) for index in indices])
        encode = self.model.image_decoder.decoder.encode
        latents_MCHW = encode(pixels.to(device), torch.zeros((), device=device)).half().cpu()
        maps_before = output.visual.maps
        if redraws and self.redrawer:
            copied = {previous_N[index] for index in indices} & set(indices)
            scenes = {index: scene_of(pictures[index]) for index in sorted(copied)}
            maps_before = self.redrawer.redraw(output.visual.maps, previous_N, scenes)
        targets: list[Target] = []
        for latents_CHW, index in zip(latents_MCHW, indices, strict=True):
            before, picture = previous_N[index], pictures[index]
            maps = None if before < 0 else tuple(m[before].half().cpu() for m in maps_before)
            hidden_KD = contexts_NKD[index, : int(mask_NK[index].sum())].half().cpu()
            foreground_HW = _foreground(picture, latents_CHW.shape[-1])
            targets.append(Target(hidden_KD, maps, latents_CHW, foreground_HW, picture))
        return targets


def contexts_of(targets: Sequence[Target], device: torch.device) -> tuple[Tensor, Tensor]:
    """The contexts of some targets, padded: [N, K, D], and their extent [N, K]."""
    hidden_NKD = pad_sequence([target.hidden_KD.float() for target in targets], True)
    lengths_N1 = torch.tensor([[len(target.hidden_KD)] for target in targets])
    mask_NK = torch.arange(hidden_NKD.shape[1]) < lengths_N1
    return hidden_NKD.to(device), mask_NK.long().to(device)


def scene_of(picture: Drawable) -> Scene:
    """What a picture of the world shows.

    Raises:
        ValueError: it is another picture.
    """
    if not isinstance(picture, Picture):
        raise ValueError("only of pictures of the world is it known what they show")
    return picture.scene


def answer_pictures(sequences: Sequence[Tokenised]) -> list[int]:
    """Which of a batch's pictures, asked ones included, belong to answers, by their index."""
    is_answer = [
        number >= sum(not isinstance(part, str) for part in sequence.example.prompt)
        for sequence in sequences
        for number in range(len(sequence.example.pictures))
    ]
    return [index for index, flag in enumerate(is_answer) if flag]


def _foreground(picture: Drawable, side: int) -> Tensor:
    """Which places of the latents show a thing or a hero, [side, side]; none if it is unknown."""
    if not isinstance(picture, Picture):
        return torch.zeros(side, side, dtype=torch.bool)
    labels_SS = torch.from_numpy(picture.scene.label_map())
    first_thing = LABELS.index("hero")
    return F.adaptive_max_pool2d((labels_SS >= first_thing).half()[None], side)[0].bool()

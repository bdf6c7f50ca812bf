"""The image decoder on a frozen language model: whatever does not change is computed once.

Contexts, feature maps and latents of an example never change while the language model, the visual
tokenizer and the autoencoder are frozen. They are computed when an example enters the pool, and
each is then used several times.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model import context
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data import Tokenised, collate, pictures_of, pixels_of, tokenise
from model.training.features import FeatureBank, features_of
from model.training.mixture import Mixture, Source
from model.training.trainer import ParameterGroup
from model.training.world.examples import Drawable, Picture
from model.training.world.scene import LABELS

_CHUNK = 24
_SUB_BATCH = 8
DECODER_WEIGHTS = {"story": 0.6, "text_to_image": 0.4}


@dataclass(frozen=True)
class Target:
    """A picture to learn, with what the decoder reads. Halves in float16."""

    hidden_KD: Tensor
    previous: tuple[Tensor, ...] | None
    latents_CHW: Tensor
    foreground_HW: Tensor


class PictureObjective:
    """The official denoising loss, on contexts and latents that are computed once."""

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        batch_size: int = 16,
        weights: Mapping[str, float] = DECODER_WEIGHTS,
        object_set: str = "drawn",
        chunks: int = 60,
        steps_per_chunk: int = 15,
        seed: int = 0,
        source: Source | None = None,
        bank: FeatureBank | None = None,
        foreground_weight: float = 1.0,
    ) -> None:
        self.model, self.processor, self.bank = model.eval(), processor, bank
        self.foreground_weight = foreground_weight
        self.module: nn.Module = model
        self.batch_size = batch_size
        self.mixture: Source = source or Mixture(weights, object_set, seed)
        self.chunks, self.steps_per_chunk, self.seed = chunks, steps_per_chunk, seed
        self.pool: list[Target] = []
        self._drawn = 0
        model.requires_grad_(False)
        for part in self._trained():
            part.requires_grad_(True)
        for name, parameter in model.named_parameters():
            if name.endswith(("pos_embed", "ignore_token")):
                parameter.requires_grad_(False)

    def _trained(self) -> list[nn.Module | nn.Parameter]:
        decoder = self.model.image_decoder
        parts: list[nn.Module | nn.Parameter | None] = [
            decoder.perceiver_resampler,
            decoder.decoder.unet,
            decoder.decoder.mmfs_module,
            decoder.neg_prompt_embeds,
            self.model.context_feat_proj,
        ]
        return [part for part in parts if part is not None]

    def groups(self) -> list[ParameterGroup]:
        """Everything between the hidden states and the autoencoder."""
        return [ParameterGroup(tuple(p for p in self.model.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The decoder's loss on pictures of the pool, which grows with the steps."""
        wanted = min(self.chunks, 2 + step // self.steps_per_chunk)
        while self._drawn < wanted:
            self.pool += self._prepare(self._drawn)
            self._drawn += 1
        rng = random.Random(f"pictures/{self.seed}/{step}")
        targets = [rng.choice(self.pool) for _ in range(self.batch_size)]
        hidden_NKD = pad_sequence([target.hidden_KD.float() for target in targets], True)
        lengths_N1 = torch.tensor([[len(target.hidden_KD)] for target in targets])
        mask_NK = (torch.arange(hidden_NKD.shape[1]) < lengths_N1).long()
        latents_NCHW = torch.stack([target.latents_CHW.float() for target in targets])
        maps, visible_N1 = self._previous_maps(targets)
        loss = self.model.image_decoder(
            latents_NCHW,
            self.model.project_context(hidden_NKD),
            mask_NK,
            maps,
            visible_N1,
            latents_BCHW=latents_NCHW,
            emphasis_BHW=self._emphasis(targets),
        )
        return {"loss": loss}

    def _emphasis(self, targets: list[Target]) -> Tensor:
        """Small things count more than the ground they stand on, [N, h, w] of mean 1."""
        foreground_NHW = torch.stack([target.foreground_HW.float() for target in targets])
        emphasis_NHW = 1 + (self.foreground_weight - 1) * foreground_NHW
        return emphasis_NHW / emphasis_NHW.mean()

    def _previous_maps(self, targets: list[Target]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Maps of the images before, zeros where there is none, and which are there."""
        vision = self.model.config.vision
        zeros = tuple(torch.zeros(vision.hidden_size, s, s) for s in vision.map_sizes)
        chosen = [target.previous or zeros for target in targets]
        maps = tuple(
            torch.stack([levels[i].float() for levels in chosen]).unsqueeze(1) for i in range(4)
        )
        return maps, torch.tensor([[target.previous is not None] for target in targets])

    @torch.no_grad()
    def _prepare(self, chunk: int) -> list[Target]:
        """Contexts, maps and latents of the pictures of one chunk of examples."""
        examples = self.mixture.draw(chunk, _CHUNK)
        sequences = [tokenise(example, self.processor) for example in examples]
        sequences.sort(key=lambda sequence: len(sequence.ids))
        targets: list[Target] = []
        for start in range(0, len(sequences), _SUB_BATCH):
            targets += self._targets(sequences[start : start + _SUB_BATCH])
        return targets

    def _targets(self, sequences: list[Tokenised]) -> list[Target]:
        """The pictures of the answers of some sequences."""
        special = self.model.config.special_tokens
        indices = _answer_pictures(sequences)
        if not indices:
            return []
        batch, _ = collate(sequences, self.processor, True, self.bank is None)
        visual, hidden_BLD = self.model.read(batch, features_of(sequences, self.model, self.bank))
        contexts_NKD, mask_NK = context.image_contexts(hidden_BLD, batch.text_ids_BL, special)
        previous_N = context.previous_images(batch.text_ids_BL, special).tolist()
        size = self.model.config.image_decoder.image_size
        pictures = pictures_of(sequences)
        pixels = torch.stack([pixels_of(pictures[index].render(size)) for index in indices])
        latents_MCHW = self.model.image_decoder.decoder.encode(pixels, torch.zeros(())).half()
        targets: list[Target] = []
        for latents_CHW, index in zip(latents_MCHW, indices, strict=True):
            before = previous_N[index]
            maps = None if before < 0 else tuple(map_[before].half() for map_ in visual.maps)
            hidden_KD = contexts_NKD[index, : int(mask_NK[index].sum())].half()
            foreground_HW = _foreground(pictures[index], latents_CHW.shape[-1])
            targets.append(Target(hidden_KD, maps, latents_CHW, foreground_HW))
        return targets


def _answer_pictures(sequences: list[Tokenised]) -> list[int]:
    """Which of a batch's pictures belong to answers, by their index in the batch."""
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

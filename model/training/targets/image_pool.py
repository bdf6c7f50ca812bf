"""Maps of images as the model itself draws them, for decoders to copy from.

While a story is told, every image is copied from one that was drawn, faults included. A decoder
that has only seen true images before adds its faults to them, page after page (exposure bias;
Bengio et al., arXiv 1506.03099).

Legend: N images, D width, s side of a map.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.image_decoder.sampler import PictureSampler
from model.mm_interleaved import MMInterleaved
from model.processor import Processor, to_image
from model.text_decoder import context
from model.training.data.batches import Tokenised, collate, images_of, pixels_of, tokenise
from model.training.data.features import FeatureBank, features_of
from model.training.data.mixture import Source
from model.training.targets.facts import codes_of
from model.training.world.drawn.scene import LABELS, Scene
from model.training.world.drawn.tasks import SceneImage
from model.training.world.world import Drawable
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
    def sampler(self) -> PictureSampler:
        """Of the decoder as it was, on the device that the model is on by now."""
        return self._decoder.to(self.model.soi_token.device).sampler()

    @torch.no_grad()
    def redraw(
        self, maps: Sequence[Tensor], previous_N: Sequence[int], scenes: dict[int, Scene]
    ) -> tuple[Tensor, ...]:
        """Maps in which some images are as drawn, each from the one before it as drawn.

        Args:
            maps: of true images, [N, D, s, s] of each level.
            previous_N: which image comes before each, -1 for none.
            scenes: of the images to redraw, by index; drawn from the scenes' codes.
        """
        redrawn = tuple(map_NDss.float() for map_NDss in maps)
        todo = dict(scenes)
        with torch.autocast(maps[0].device.type, enabled=False):  # Samplers choose their own type.
            while todo:
                # Of each story the first image that is left.
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
            [
                map_NDss[before].unsqueeze(1) * visible_N1[..., None, None, None]
                for map_NDss in maps
            ],
            visible_N1,
        )
        latents_NCHW = sampler.denoise(
            sampler.initial_latents(len(scenes), self.generator),
            sampler.batch([prepared], guided=True),
            self.generator,
            _STEPS,
            _GUIDANCE,
            scheduler=_SCHEDULER,
        )
        images = [to_image(pixels_3SS) for pixels_3SS in sampler.decode(latents_NCHW)]
        pixels_N3SS = torch.stack([self.processor.pixels(image) for image in images])
        features: VisualFeatures = self.model.visual_tokenizer(pixels_N3SS.to(maps[0].device))
        return features.maps


_CHUNK = 24
_SUB_BATCH = 8
_STEPS_PER_CHUNK = 10
_FIRST_CHUNKS = 2


@dataclass(frozen=True)
class Target:
    """An image to learn, with what the decoder reads. Halves in float16."""

    hidden_KD: Tensor
    previous: tuple[Tensor, ...] | None
    latents_CHW: Tensor
    foreground_HW: Tensor
    image: Drawable


class TargetPool:
    """Targets of the answers of a source's examples; it grows with the steps.

    Of a share of the examples (`redrawn`), images of the answer are copied from ones before them
    as the model draws them.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        source: Source,
        num_images: int,
        seed: int = 0,
        bank: FeatureBank | None = None,
        redrawn: float = 0.0,
    ) -> None:
        self.model, self.processor, self.source, self.bank = model, processor, source, bank
        self.redrawn = redrawn
        self.redrawer = Redrawer(model, processor, seed) if redrawn else None
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
        rng = random.Random(f"redrawn/{self.seed}/{self._num_chunks}")
        for start in range(0, len(sequences), _SUB_BATCH):
            redraws = rng.random() < self.redrawn
            self.targets += self._targets(sequences[start : start + _SUB_BATCH], redraws)
        self._num_chunks += 1
        return bool(examples)

    @torch.no_grad()
    def _targets(self, sequences: list[Tokenised], redraws: bool) -> list[Target]:
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
        previous_N = context.previous_images(batch.text_ids_BL, special).tolist()
        size = self.model.config.image_decoder.image_size
        images = images_of(sequences)
        pixels = torch.stack([pixels_of(images[index].render(size)) for index in indices])
        encode = self.model.image_decoder.decoder.encode
        latents_MCHW = encode(pixels.to(device), torch.zeros((), device=device)).half().cpu()
        maps_before = output.visual.maps
        if redraws and self.redrawer:
            copied = {previous_N[index] for index in indices} & set(indices)
            scenes = {index: scene_of(images[index]) for index in sorted(copied)}
            maps_before = self.redrawer.redraw(output.visual.maps, previous_N, scenes)
        targets: list[Target] = []
        for latents_CHW, index in zip(latents_MCHW, indices, strict=True):
            before, image = previous_N[index], images[index]
            maps = None if before < 0 else tuple(m[before].half().cpu() for m in maps_before)
            hidden_KD = contexts_NKD[index, : int(mask_NK[index].sum())].half().cpu()
            foreground_HW = _foreground(image, latents_CHW.shape[-1])
            targets.append(Target(hidden_KD, maps, latents_CHW, foreground_HW, image))
        return targets


def contexts_of(targets: Sequence[Target], device: torch.device) -> tuple[Tensor, Tensor]:
    """The contexts of some targets, padded: [N, K, D], and their extent [N, K]."""
    hidden_NKD = pad_sequence([target.hidden_KD.float() for target in targets], True)
    lengths_N1 = torch.tensor([[len(target.hidden_KD)] for target in targets])
    mask_NK = torch.arange(hidden_NKD.shape[1]) < lengths_N1
    return hidden_NKD.to(device), mask_NK.long().to(device)


def scene_of(image: Drawable) -> Scene:
    """What an image of the world shows.

    Raises:
        ValueError: it is another image.
    """
    if not isinstance(image, SceneImage):
        raise ValueError("only of pictures of the world is it known what they show")
    return image.scene


def answer_images(sequences: Sequence[Tokenised]) -> list[int]:
    """Which of a batch's images, asked ones included, belong to answers, by their index."""
    is_answer = [
        number >= sum(not isinstance(part, str) for part in sequence.example.prompt)
        for sequence in sequences
        for number in range(len(sequence.example.images))
    ]
    return [index for index, flag in enumerate(is_answer) if flag]


def _foreground(image: Drawable, side: int) -> Tensor:
    """Which places of the latents show a thing or a hero, [side, side]; none if it is unknown."""
    if not isinstance(image, SceneImage):
        return torch.zeros(side, side, dtype=torch.bool)
    labels_SS = torch.from_numpy(image.scene.label_map())
    first_thing = LABELS.index("hero")
    return F.adaptive_max_pool2d((labels_SS >= first_thing).half()[None], side)[0].bool()

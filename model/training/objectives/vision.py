"""Objectives of the visual tokenizer, which the ground truth of the world teaches.

A model of the published size starts from CLIP instead. Three phases follow each other:

- `vision`: ViT and adapter learn facts and colours from patches and maps. Through the perceiver,
  which starts by averaging everything, the encoder would hardly learn. Readouts are discarded.
- `condense`: the perceiver learns the facts from the visual tokens, on the frozen encoder.
- `align`: each visual token approaches the sum of the word embeddings of its place: a quarter of
  the tokens for each slot, the rest for the background. The language model then reads an image
  about as it reads a sentence. Embeddings are relative to their mean: those of a pre-trained model
  have a large common part, of which six words would have six times as much.

Legend: N images, B batch, F facts, T visual tokens, D width, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from string import ascii_lowercase, ascii_uppercase, digits

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import pixels_of
from model.training.data.features import EncodedScenes, perceiver_parameters
from model.training.objectives.losses import colour_distance
from model.training.parameters import ParameterGroup
from model.training.recipe import Phase
from model.training.targets.facts import (
    FactReadout,
    fact_logits,
    fact_loss,
    fact_targets,
)
from model.training.targets.words import apart, readers, word_vectors
from model.training.weights.start import spread_queries
from model.training.world.drawable import Drawable
from model.training.world.world import World
from model.visual_tokenizer.codebook import sections
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

_COARSEST_READ = 2  # How many of the four maps the facts are read from, the coarsest.


class VisionObjective:
    """Reads every fact from patches and coarse maps, and colours from all maps."""

    def __init__(
        self,
        tokenizer: VisualTokenizer,
        phase: Phase,
        world: World,
        seed: int = 0,
    ) -> None:
        vision = tokenizer.config.vision
        self.tokenizer, self.phase, self.world, self.seed = tokenizer, phase, world, seed
        sides = (vision.grid_size, *vision.map_sizes[-_COARSEST_READ:])
        self.facts = nn.ModuleList(
            FactReadout(side**2 * vision.hidden_size, world.seen) for side in sides
        )
        self.colours = nn.ModuleList(nn.Linear(vision.hidden_size, 3) for _ in vision.map_sizes)
        self.module = nn.ModuleList([self.tokenizer, self.facts, self.colours])

    def groups(self) -> list[ParameterGroup]:
        """The ViT, its adapter and the readouts."""
        parts = nn.ModuleList([self.tokenizer.encoder, self.facts, self.colours])
        return [ParameterGroup(tuple(p for p in parts.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts, distance of the colours."""
        rng = random.Random(f"vision/{self.seed}/{step}")
        scenes = [self.world.scene(rng) for _ in range(self.phase.batch_size)]
        device = self.tokenizer.pos_embed.device
        pixels_N3SS = torch.stack([pixels_of(scene.render()) for scene in scenes]).to(device)
        visual = self.tokenizer(pixels_N3SS)
        facts, accuracy = self._facts(visual, fact_targets(scenes, self.world.seen).to(device))
        colour = colour_distance(self.colours, visual.maps, pixels_N3SS)
        return {"loss": facts + colour, "facts": facts, "colour": colour, "accuracy": accuracy}

    def _facts(self, visual: VisualFeatures, targets_NF: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over the readouts of the loss, and their mean accuracy."""
        coarse = [map_.flatten(2).transpose(1, 2) for map_ in visual.maps[-_COARSEST_READ:]]
        results = [
            readout(features_NLD, targets_NF)
            for readout, features_NLD in zip(
                self.facts, (visual.image_embeds_NVC, *coarse), strict=True
            )
        ]
        losses, accuracies = zip(*results, strict=True)
        return torch.stack(losses).sum(), torch.stack(accuracies).mean()


_SHARPNESS = 1.6
_TOKEN_WIDTH = 0.05


class CondenseObjective:
    """Reads every fact from the visual tokens, whose encoder stays as it is."""

    def __init__(
        self,
        tokenizer: VisualTokenizer,
        phase: Phase,
        world: World,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.phase = tokenizer, phase
        config = tokenizer.config
        self.known = world.seen
        self.facts = FactReadout(config.num_img_token * config.llm.hidden_size, world.seen)
        self.module = nn.ModuleList([tokenizer, self.facts])
        self.scenes = EncodedScenes(tokenizer, phase.num_pictures, world, seed)

    def groups(self) -> list[ParameterGroup]:
        """The perceiver, the projections around it, and the readout."""
        return [ParameterGroup((*perceiver_parameters(self.tokenizer), *self.facts.parameters()))]

    @cached_property
    def _targets_NF(self) -> Tensor:
        return fact_targets(self.scenes.scenes, self.known)

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts."""
        tokens_BTD, chosen_B = self.scenes.draw(step, self.phase.batch_size)
        loss, accuracy = self.facts(tokens_BTD, self._targets_NF[chosen_B].to(tokens_BTD.device))
        return {"loss": loss, "accuracy": accuracy}


@torch.no_grad()
def spread_visual_tokens(tokenizer: VisualTokenizer) -> None:
    """Initialise a perceiver that tells places apart, with tokens as small as words."""
    spread_queries(tokenizer.perceiver_resampler, _SHARPNESS)
    nn.init.normal_(tokenizer.proj.weight, std=_TOKEN_WIDTH)


_SCALE = 8.0  # The logit of a word that is part of the sum; of all others about 0.


class AlignObjective:
    """Distance of the visual tokens from the sums of their words; only the perceiver learns.

    With `spell_out` the tokens of a place are its words one after the other ("left", "small",
    "red", "boat"), as a pre-trained language model reads text.

    If language gives numbers of what is at a place, the last tokens of the place also hold one
    each: its tens as a digit, its ones as a letter, its position among the numbers as a capital.
    The language model then translates what it could not compute.

    The cross-entropy of each fact, read by the words of its values from the mean token of its
    place, and of the numbers are added: without them most tokens stop near the sum of the most
    common words.

    Raises:
        ValueError: images have fewer visual tokens than places.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        world: World,
        seed: int = 0,
    ) -> None:
        facts, number = world.seen, model.config.num_img_token
        if number < facts.num_places:
            raise ValueError(f"{number} visual tokens are too few for {facts.num_places} places")
        self.model, self.processor, self.phase, self.facts = model, processor, phase, facts
        self.module: nn.Module = model.visual_tokenizer
        self.scenes = EncodedScenes(model.visual_tokenizer, phase.num_pictures, world, seed)

    def groups(self) -> list[ParameterGroup]:
        """The perceiver and the projections around it."""
        return [ParameterGroup(perceiver_parameters(self.model.visual_tokenizer))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The distance, in variances of a word's embedding, and the cross-entropy."""
        tokens_BTD, chosen_B = self.scenes.draw(step, self.phase.batch_size)
        tokens_BTD = tokens_BTD - self._mean_D.to(tokens_BTD.device)
        figures_BT = self._figures_NT[chosen_B]
        targets_BTD = self._targets_NTD[chosen_B] + self._figure_vectors(figures_BT)
        targets_BTD = targets_BTD.to(tokens_BTD.device)
        distance = F.mse_loss(tokens_BTD, targets_BTD) / self._variance
        scenes = [self.scenes.scenes[index] for index in chosen_B.tolist()]
        logits = fact_logits(tokens_BTD, self._words, self._scale, self.facts)
        facts = fact_loss(logits, fact_targets(scenes, self.facts).to(tokens_BTD.device))
        figures = self._figure_loss(tokens_BTD, figures_BT.to(tokens_BTD.device))
        loss = distance + facts + figures
        return {"loss": loss, "distance": distance, "facts": facts, "figures": figures}

    def _figure_loss(self, tokens_BTD: Tensor, figures_BT: Tensor) -> Tensor:
        """Mean cross-entropy of the tens and of the ones that tokens hold; 0 if none does."""
        asked_BT = figures_BT >= 0
        if not bool(asked_BT.any()):
            return tokens_BTD.sum() * 0
        tokens_MD, figures_M = tokens_BTD[asked_BT].float(), figures_BT[asked_BT]
        parts = ((self._tens_WD, figures_M // 10), (self._ones_WD, figures_M % 10))
        losses = [
            F.cross_entropy(
                _SCALE * tokens_MD @ readers(vectors_WD).T.to(tokens_MD.device), digit_M
            )
            for vectors_WD, digit_M in parts
        ]
        return torch.stack(losses).mean()

    @property
    def _by_place(self) -> list[range]:
        return sections(self.model.config.num_img_token, self.facts.num_places)

    @property
    def _scale(self) -> float:
        """Facts are read from the mean token of a place; one of its tokens, or all, hold a word."""
        tokens, *_ = self._by_place
        return _SCALE * len(tokens) if self.phase.spell_out else _SCALE

    @cached_property
    def _variance(self) -> Tensor:
        """The variance of the embeddings of words that name facts."""
        words = {word for values in self.facts.values.values() for word in values}
        return self._vectors(sorted(words)).var()

    @cached_property
    def _words(self) -> dict[str, Tensor]:
        """The readers of the values of each fact."""
        return {name: readers(self._vectors(values)) for name, values in self.facts.values.items()}

    @cached_property
    def _embeddings_VD(self) -> Tensor:
        return self.model.mm_decoder.embed_tokens.weight.detach().cpu()

    @cached_property
    def _mean_D(self) -> Tensor:
        return self._embeddings_VD.mean(0)

    @cached_property
    def _tens_WD(self) -> Tensor:
        return apart(digits, self.processor, self._embeddings_VD)

    @cached_property
    def _ones_WD(self) -> Tensor:
        return apart(ascii_lowercase[:10], self.processor, self._embeddings_VD)

    @cached_property
    def _positions_WD(self) -> Tensor:
        tokens, *_ = self._by_place
        return apart(ascii_uppercase[: len(tokens)], self.processor, self._embeddings_VD)

    @cached_property
    def _figures_NT(self) -> Tensor:
        """The number that each token of a scene holds, -1 for none."""
        return torch.stack([self._figures(scene) for scene in self.scenes.scenes])

    def _figures(self, scene: Drawable) -> Tensor:
        figures_T = torch.full((self.model.config.num_img_token,), -1)
        by_place = self.facts.figures_of(scene) if self.facts.figures_of else []
        for tokens, figures in zip(self._by_place, by_place, strict=False):
            last = tokens[len(tokens) - len(figures) :]
            for token, figure in zip(last, figures, strict=True):
                figures_T[token] = figure
        return figures_T

    def _figure_vectors(self, figures_BT: Tensor) -> Tensor:
        """Tens, ones and position of each number, [B, T, D]; zero where a token holds none."""
        held_BT = figures_BT >= 0
        known_BT = figures_BT.clamp(min=0)
        vectors_BTD = self._tens_WD[known_BT // 10] + self._ones_WD[known_BT % 10]
        for tokens in self._by_place:
            last = tokens[-len(self._positions_WD) :]
            vectors_BTD[:, last.start : last.stop] += self._positions_WD
        return vectors_BTD * held_BT[..., None]

    @cached_property
    def _targets_NTD(self) -> Tensor:
        return torch.stack([self._target(scene) for scene in self.scenes.scenes])

    def _target(self, scene: Drawable) -> Tensor:
        """The target tokens of a scene, relative to the mean embedding, [T, D]."""
        *slots, background = self.facts.words_of(scene)
        *tokens, rest = self._by_place
        if self.phase.spell_out:
            places = zip((*slots, background), (*tokens, rest), strict=True)
            phrases = [_spelled_out(words, len(each)) for words, each in places]
            return torch.stack([self._sum_of(words) for phrase in phrases for words in phrase])
        sums = [self._sum_of(w) for w, each in zip(slots, tokens, strict=True) for _ in each]
        # One after the other for each word of the background, and for all of them.
        ways = [self._sum_of(words) for words in (*([word] for word in background), background)]
        sums += [ways[i % len(ways)] for i in range(len(rest))]
        return torch.stack(sums)

    def _sum_of(self, words: Sequence[str]) -> Tensor:
        return self._vectors(words).sum(0)

    def _vectors(self, words: Sequence[str]) -> Tensor:
        return word_vectors(words, self.processor, self._embeddings_VD) - self._mean_D


def _spelled_out(words: Sequence[str], number: int) -> list[list[str]]:
    """The words on `number` tokens: the last one repeated if few, the last ones summed if many."""
    one_each = [[word] for word in words[: number - 1]]
    return one_each + [list(words[number - 1 :]) or [words[-1]]] * (number - len(one_each))

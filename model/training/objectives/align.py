"""Visual tokens in the language model's own words.

A small language model needs long to learn what a visual token says. Here every token is drawn to
the sum of the embeddings of the words that name what it stands for: a quarter of the tokens for
each place where a thing can stand, the rest for the background. The language model then reads a
picture about as it reads a sentence, and finds a thing in it by its word.

What all words share is not summed up: the embeddings of a pre-trained model have a large common
mean, of which six words would have six times as much, and little of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.objectives.encoded_scenes import EncodedScenes, perceiver_parameters
from model.training.objectives.facts import (
    FACTS,
    fact_logits,
    fact_loss,
    fact_targets,
    tokens_by_place,
    values_by_place,
)
from model.training.objectives.words import readers, word_vectors
from model.training.parameters import ParameterGroup
from model.training.world.scene import SLOTS, Scene

_SCALE = 8.0  # The logit of a word that is part of the sum; of all others about 0.


class AlignObjective:
    """Distance of the visual tokens from the sums of their words; only the perceiver learns.

    With `spell_out` the tokens of a place say its words one after the other ("left", "small",
    "red", "boat"), as a pre-trained language model is used to read.

    And the cross-entropy of each fact as the words of its values tell it from the mean of a place's
    tokens: without it most tokens come near the sum of the commonest words, and go no further.

    Raises:
        ValueError: pictures have fewer visual tokens than places.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        batch_size: int = 40,
        object_set: str = "drawn",
        num_pictures: int = 8000,
        seed: int = 0,
        spell_out: bool = False,
    ) -> None:
        if model.config.num_img_token <= len(SLOTS):
            raise ValueError(f"a token for each place needs more than {len(SLOTS)} visual tokens")
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.spell_out = spell_out
        self.module: nn.Module = model.visual_tokenizer
        self.scenes = EncodedScenes(model.visual_tokenizer, num_pictures, object_set, seed)

    def groups(self) -> list[ParameterGroup]:
        """The perceiver and the projections around it."""
        return [ParameterGroup(perceiver_parameters(self.model.visual_tokenizer))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The distance, in variances of a word's embedding, and the cross-entropy."""
        tokens_BTD, chosen_B = self.scenes.draw(step, self.batch_size)
        tokens_BTD = tokens_BTD - self._mean_D.to(tokens_BTD.device)
        targets_BTD = self._targets_NTD[chosen_B].to(tokens_BTD.device)
        distance = F.mse_loss(tokens_BTD, targets_BTD) / self._variance
        scenes = [self.scenes.scenes[index] for index in chosen_B.tolist()]
        logits = fact_logits(tokens_BTD, self._words, self._scale)
        facts = fact_loss(logits, fact_targets(scenes).to(tokens_BTD.device))
        return {"loss": distance + facts, "distance": distance, "facts": facts}

    @property
    def _scale(self) -> float:
        """Facts are read from the mean of a place's tokens, of which one says a word, or all do."""
        tokens, *_ = tokens_by_place(self.model.config.num_img_token)
        return _SCALE * len(tokens) if self.spell_out else _SCALE

    @cached_property
    def _variance(self) -> Tensor:
        """Of the embedding of a word that names a fact."""
        words = {word for values in FACTS.values() for word in values}
        return self._vectors(sorted(words)).var()

    @cached_property
    def _words(self) -> dict[str, Tensor]:
        """For each fact its values' embeddings by their squared lengths."""
        return {name: readers(self._vectors(values)) for name, values in FACTS.items()}

    @cached_property
    def _embeddings_VD(self) -> Tensor:
        return self.model.mm_decoder.embed_tokens.weight.detach().cpu()

    @cached_property
    def _mean_D(self) -> Tensor:
        return self._embeddings_VD.mean(0)

    @cached_property
    def _targets_NTD(self) -> Tensor:
        return torch.stack([self._target(scene) for scene in self.scenes.scenes])

    def _target(self, scene: Scene) -> Tensor:
        """What the tokens of a scene shall be beside the mean of all words, [T, D]."""
        *slots, background = values_by_place(scene)
        *tokens, rest = tokens_by_place(self.model.config.num_img_token)
        if self.spell_out:
            places = zip((*map(_in_order, slots), background), (*tokens, rest), strict=True)
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


def _in_order(words: Sequence[str]) -> list[str]:
    """What is true of a slot as one would say it: "left", "small", "red", "boat"."""
    slot, what, *adjectives = words
    return [slot, *reversed(adjectives), what]


def _spelled_out(words: Sequence[str], number: int) -> list[list[str]]:
    """The words on `number` tokens, one each; the last again if few, the last together if many."""
    one_each = [[word] for word in words[: number - 1]]
    return one_each + [list(words[number - 1 :]) or [words[-1]]] * (number - len(one_each))

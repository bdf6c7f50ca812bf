"""The reading layer of the image perceiver, on the contexts of a frozen language model.

What a context says of its image becomes codes (`targets.image_tokens.codes`). The language model
does not learn, so every context is computed once. On a CPU a step takes a quarter of the time of
one that trains it, and less once all contexts are known.

Legend: N images, K context length, D width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.text_decoder import context
from model.training.data.batches import collate, of_similar_length, tokenise
from model.training.data.mixture import Source
from model.training.parameters import ParameterGroup, train_only
from model.training.recipe import Phase
from model.training.targets.image_pool import answer_images, contexts_of
from model.training.targets.image_tokens.codes import code_loss
from model.training.world.drawable import Drawable
from model.training.world.example import Example
from model.training.world.facts import Facts

_EXAMPLES = 64  # Whose contexts are computed together.
_PER_NEW = 4  # Images of a step for each one that is new.


@dataclass(frozen=True)
class _Context:
    """The hidden states before an image, [K, D] in float16, the nearest first."""

    hidden_KD: Tensor
    image: Drawable


class ReadingObjective:
    """The code loss of images of answers, from the contexts before them.

    About `batch_size` new images a step come to be known, until there are `num_pictures`; a step
    learns from four times as many of those known.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        source: Source,
        facts: Facts,
        seed: int = 0,
    ) -> None:
        self.model, self.processor, self.phase = model.eval(), processor, phase
        self.source, self.facts, self.seed = source, facts, seed
        self.module: nn.Module = model
        self._known: list[_Context] = []
        self._num_draws = 0
        perceiver = model.image_decoder.perceiver_resampler
        train_only(model, [perceiver, model.context_feat_proj])
        perceiver.composing_layers.requires_grad_(False)

    def groups(self) -> list[ParameterGroup]:
        """The projection of the contexts, and the layers that read them."""
        return [ParameterGroup(tuple(p for p in self.model.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The code loss of a step's images."""
        wanted = min(self.phase.num_pictures, (step + 1) * self.phase.batch_size)
        while len(self._known) < wanted:
            self._known += self._contexts(self.source.draw(self._num_draws, _EXAMPLES))
            self._num_draws += 1
        rng = random.Random(f"reading/{self.seed}/{step}")
        chosen = rng.choices(self._known, k=_PER_NEW * self.phase.batch_size)
        hidden_states = [each.hidden_KD for each in chosen]
        hidden_NKD, mask_NK = contexts_of(hidden_states, self.model.soi_token.device)
        perceiver = self.model.image_decoder.perceiver_resampler
        tokens_NTD = perceiver.read(self.model.project_context(hidden_NKD), mask_NK)
        images = [each.image for each in chosen]
        return {"loss": code_loss(tokens_NTD, images, self.facts, self.model.config)}

    @torch.no_grad()
    def _contexts(self, examples: Sequence[Example]) -> list[_Context]:
        """The contexts of the images of the examples' answers."""
        sequences = [tokenise(example, self.processor, may_ask=True) for example in examples]
        found: list[_Context] = []
        for part in of_similar_length(sequences):
            batch, _ = collate(part, self.processor, learn_prompt=False)
            batch = batch.to(self.model.soi_token.device)
            hidden_BLD = self.model(batch).hidden_BLD
            special = self.model.config.special_tokens
            hidden_NKD, mask_NK = context.image_contexts(hidden_BLD, batch.text_ids_BL, special)
            images = [image for sequence in part for image in sequence.example.images]
            for index in answer_images(part):
                hidden_KD = hidden_NKD[index, : int(mask_NK[index].sum())]
                found.append(_Context(hidden_KD.half().cpu(), images[index]))
        return found

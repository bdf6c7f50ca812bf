"""When to begin an image: the row of the begin-of-image token in the head, and nothing else.

`language` teaches this together with everything else, and errs where it has seen little: an image
begins in a list of names, or in the middle of a sentence. Here the language model is frozen, its
hidden states are computed once, and one row is fitted to them (logistic regression). The odds
between all other words stay as they are.

An image must begin where the world's answers have one. It must not begin elsewhere in them, nor
anywhere in what the model says to plain requests while it is kept from beginning images; there its
odds are held down by a margin.

Legend: M places, before each of which a token of an answer is predicted; D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.segments import TextSegment
from model.text_decoder import context
from model.training.data.batches import collate, of_similar_length, tokenise
from model.training.data.mixture import Source
from model.training.parameters import ParameterGroup, train_only
from model.training.recipe import Phase
from model.training.targets.chat import padded_behind, sampled_answers
from model.training.targets.plain_requests import plain_requests

_EXAMPLES = 16  # Which are read together.
_NEVER = 100.0  # Taken from a logit.
_MARGIN = 8.0  # Nats, added where no image begins: what is unlike the examples stays clear of one.


class BeginningObjective:
    """Cross-entropy of whether an image begins, in nats an image.

    `num_pictures` of the world's examples are read, and half as many plain requests answered.
    """

    def __init__(
        self,
        model: MMInterleaved,
        processor: Processor,
        phase: Phase,
        source: Source,
        seed: int = 0,
    ) -> None:
        self.model, self.processor, self.phase = model.eval(), processor, phase
        self.source, self.seed = source, seed
        self.module: nn.Module = model
        self._token = processor.special.soi_token_id
        train_only(model, [model.text_decoder.head_new])

    def groups(self) -> list[ParameterGroup]:
        """The head of the new tokens, of which one row has gradients."""
        parameters = tuple(self.model.text_decoder.head_new.parameters())
        return [ParameterGroup(parameters, weight_decay=0.0)]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The loss over all places, and the shares of images missed and begun in vain."""
        hidden_MD, others_M, begins_M = self._places
        weight_ND, bias_N = self.model.text_decoder.new_tokens()
        row = self._token - self.model.text_decoder.num_old
        with torch.autocast(hidden_MD.device.type, enabled=False):
            logit_M = F.linear(hidden_MD, weight_ND[row : row + 1], bias_N[row]).squeeze(1)
        margin_M = logit_M - others_M
        loss = F.binary_cross_entropy_with_logits(
            margin_M + _MARGIN * ~begins_M, begins_M.float(), reduction="sum"
        )
        return {
            "loss": loss / begins_M.sum(),
            "missed": (margin_M[begins_M] < 0).float().mean(),
            "in vain": (margin_M[~begins_M] > 0).float().mean(),
        }

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [M, D], the logits of all other tokens as one, and where images begin."""
        found = [*self._of_examples(), *self._of_plain_requests()]
        hidden, others, begins = (torch.cat(parts) for parts in zip(*found, strict=True))
        return hidden, others, begins

    @torch.no_grad()
    def _of_examples(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The places of the answers of the world's examples."""
        for draw in range(self.phase.num_pictures // _EXAMPLES):
            examples = self.source.draw(draw, _EXAMPLES)
            sequences = [tokenise(example, self.processor, may_ask=True) for example in examples]
            for part in of_similar_length(sequences):
                batch, labels_BL = collate(part, self.processor, learn_prompt=False)
                batch = batch.to(self.model.soi_token.device)
                hidden_BLD = self.model(batch).hidden_BLD[:, :-1]
                is_learned_BL = labels_BL != context.IGNORED
                begins_M = labels_BL[is_learned_BL] == self._token
                yield self._place(hidden_BLD[is_learned_BL.to(hidden_BLD.device)], begins_M)

    @torch.no_grad()
    def _of_plain_requests(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The places of the model's own answers to plain requests."""
        requests = plain_requests(self.phase.num_pictures // 2, self.seed)
        prompts = [self.processor.encode((TextSegment(text),)).input_ids for text in requests]
        generator = torch.Generator(self.model.soi_token.device).manual_seed(self.seed)
        for start in range(0, len(prompts), _EXAMPLES):
            asked = prompts[start : start + _EXAMPLES]
            with self._without_images():
                answers = sampled_answers(self.model, asked, generator)
            batch, predicts_BL = padded_behind(asked, answers)
            hidden_BLD = self.model(batch.to(self.model.soi_token.device)).hidden_BLD
            hidden_MD = hidden_BLD[predicts_BL.to(hidden_BLD.device)]
            yield self._place(hidden_MD, torch.zeros(len(hidden_MD), dtype=torch.bool))

    def _place(self, hidden_MD: Tensor, begins_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits_MV = self.model.text_decoder(hidden_MD)
        logits_MV[:, self._token] = -torch.inf
        return hidden_MD.float(), logits_MV.logsumexp(-1), begins_M.to(hidden_MD.device)

    @contextmanager
    def _without_images(self) -> Iterator[None]:
        """The model begins no image."""
        bias_N = self.model.text_decoder.head_new.bias
        row = self._token - self.model.text_decoder.num_old
        kept = bias_N[row].clone()
        bias_N[row] -= _NEVER
        try:
            yield
        finally:
            bias_N[row] = kept

"""What the untouched language model says to plain requests, and how likely it finds every word.

Learning the tasks must not cost the ability to chat. No data set is needed for that: the untouched
model answers requests of a grammar once, and the trained model keeps its distribution over these
answers.

Legend: B answers, L tokens of prompt and answer, M tokens of all answers, K most likely tokens,
V vocabulary.

The file holds, in safetensors:

    ids           [sum of L] int32, prompts and answers one after the other
    lengths       [N, 2] int32, of each prompt and of each answer
    top_ids       [M, K] int32, the most likely tokens in the place of each answer's token
    top           [M, K] float16, their log-probabilities
    rest          [M] float32, the log-probability of all others together
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.checkpoint.packaged import base_model
from model.checkpoint.packaged.base_model import BaseModel
from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import Batch, MMInterleaved
from model.offline.generation import TextGeneration, generate_texts
from model.processor import Processor
from model.segments import TextSegment
from model.training.targets.plain_requests import plain_requests

NUM_REQUESTS = 768
_BATCH = 32
_TOP = 64
_SAMPLING = TextGeneration(
    max_length=64,
    min_length=0,
    num_beams=1,
    use_nucleus_sampling=True,
    temperature=0.8,
    top_p=1.0,
)


def untouched(config: MMInterleavedConfig, base: BaseModel) -> MMInterleaved:
    """The packaged language model in a model that adds nothing to it.

    The gates of its synchronizers are closed, and it never begins an image.

    Raises:
        CheckpointError: the package is not installed.
    """
    model = MMInterleaved(config)
    base_model.load_base(model, base)
    with torch.no_grad():
        model.text_decoder.head_new.bias.fill_(0.0)  # The frozen head's -100 remains.
    return model.eval()


@dataclass(frozen=True)
class ChatTargets:
    """Answers of the untouched model with its distributions; see the module's legend."""

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    top_ids_MK: Tensor
    top_MK: Tensor
    rest_M: Tensor

    @classmethod
    def at(
        cls, path: Path, model: MMInterleaved, processor: Processor, base: BaseModel, seed: int
    ) -> Self:
        """The targets in a file, which is made first if there is none of this base and seed.

        Args:
            path: the file.
            model: gives sizes and device.
            processor: builds the prompts.
            base: the untouched language model.
            seed: of requests and answers.
        """
        settings = {"base": base.sha256, "seed": f"{seed}", "number": f"{NUM_REQUESTS}"}
        if not _is_made(path, settings):
            device = model.soi_token.device
            teacher = untouched(processor.config, base).to(device)
            tensors = _make(teacher, processor, plain_requests(NUM_REQUESTS, seed), seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file(tensors, partial, metadata=settings)
            partial.replace(path)
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The targets in a file."""
        with safe_open(path, "pt") as file:
            ids, lengths_N2 = file.get_tensor("ids").tolist(), file.get_tensor("lengths")
            prompts, answers, at = [], [], 0
            for num_prompt, num_answer in lengths_N2.tolist():
                prompts.append(tuple(ids[at : at + num_prompt]))
                at += num_prompt
                answers.append(tuple(ids[at : at + num_answer]))
                at += num_answer
            tops = (file.get_tensor(name) for name in ("top_ids", "top", "rest"))
            return cls(tuple(prompts), tuple(answers), *tops)

    def draw(self, step: int, number: int) -> ChatBatch:
        """Random answers, a function of the step."""
        rng = random.Random(f"chat/{step}")
        chosen = rng.sample(range(len(self.answers)), min(number, len(self.answers)))
        ends = list(itertools.accumulate(map(len, self.answers)))
        places_M = torch.cat(
            [torch.arange(ends[n] - len(self.answers[n]), ends[n]) for n in chosen]
        )
        prompts, answers = ([each[n] for n in chosen] for each in (self.prompts, self.answers))
        return ChatBatch(
            *padded_behind(prompts, answers),
            self.top_ids_MK[places_M].long(),
            self.top_MK[places_M].float(),
            self.rest_M[places_M],
        )


@dataclass(frozen=True)
class ChatBatch:
    """Some answers and what the untouched model expected in the place of each of their tokens.

    `predicts_BL` marks the tokens after which a token of the answer follows. The distributions are
    those of the module's legend.
    """

    batch: Batch
    predicts_BL: Tensor
    top_ids_MK: Tensor
    top_MK: Tensor
    rest_M: Tensor

    def to(self, device: torch.device) -> ChatBatch:
        """The same on a device."""
        tensors = (self.predicts_BL, self.top_ids_MK, self.top_MK, self.rest_M)
        return ChatBatch(self.batch.to(device), *(tensor.to(device) for tensor in tensors))


def distribution(logits_MV: Tensor, top_ids_MK: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of some tokens, [M, K], and of all others together, [M]."""
    total_M1 = logits_MV.logsumexp(-1, keepdim=True)
    others_MV = logits_MV.scatter(-1, top_ids_MK, -torch.inf)
    top_MK = logits_MV.gather(-1, top_ids_MK) - total_M1
    return top_MK, others_MV.logsumexp(-1) - total_M1.squeeze(-1)


def _is_made(path: Path, settings: Mapping[str, str]) -> bool:
    """Whether the file is there and was made with these settings."""
    if not path.is_file():
        return False
    with safe_open(path, "pt") as file:
        return bool(file.metadata() == settings)


@torch.no_grad()
def _make(
    teacher: MMInterleaved, processor: Processor, requests: Sequence[str], seed: int
) -> dict[str, Tensor]:
    """The tensors of a file: answers to some requests, sampled in batches."""
    prompts = [processor.encode((TextSegment(request),)).input_ids for request in requests]
    generator = torch.Generator(teacher.soi_token.device).manual_seed(seed)
    ids: list[int] = []
    lengths: list[tuple[int, int]] = []
    tops: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(prompts), _BATCH):
        asked = prompts[start : start + _BATCH]
        answers = sampled_answers(teacher, asked, generator)
        tops.append(_expected(teacher, asked, answers))
        for prompt, answer in zip(asked, answers, strict=True):
            ids += [*prompt, *answer]
            lengths.append((len(prompt), len(answer)))
    top_ids_MK, top_MK, rest_M = (torch.cat(each) for each in zip(*tops, strict=True))
    return {
        "ids": torch.tensor(ids, dtype=torch.int32),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "top_ids": top_ids_MK.int(),
        "top": top_MK.half(),
        "rest": rest_M,
    }


def sampled_answers(
    model: MMInterleaved, prompts: Sequence[Sequence[int]], generator: torch.Generator
) -> list[list[int]]:
    """Sampled answers with the token that ends them, if they end."""
    special, device = model.config.special_tokens, model.soi_token.device
    ids_BL = pad_sequence(
        [torch.tensor(prompt) for prompt in prompts],
        batch_first=True,
        padding_value=special.pad_token_id,
        padding_side="left",
    )
    lengths_B1 = torch.tensor([[len(prompt)] for prompt in prompts])
    mask_BL = (torch.arange(ids_BL.shape[1]) >= ids_BL.shape[1] - lengths_B1).long()
    batch = _without_images(ids_BL, mask_BL).to(device)
    output_BL = generate_texts(model, batch, _SAMPLING, generator)[:, 1:]
    answers = []
    for answer in output_BL.tolist():
        end = special.eos_token_id
        answers.append(answer[: answer.index(end) + 1] if end in answer else answer)
    return answers


def _expected(
    teacher: MMInterleaved, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely tokens of every place, their log-probabilities, and that of all others."""
    batch, predicts_BL = padded_behind(prompts, answers)
    hidden_BLD = teacher(batch.to(teacher.soi_token.device)).hidden_BLD
    logits_MV = teacher.text_decoder(hidden_BLD[predicts_BL.to(hidden_BLD.device)])
    top_ids_MK = logits_MV.topk(_TOP).indices
    top_MK, rest_M = distribution(logits_MV, top_ids_MK)
    return top_ids_MK.cpu(), top_MK.cpu(), rest_M.cpu()


def padded_behind(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[Batch, Tensor]:
    """Prompts with their answers as a batch, and which tokens predict a token of the answer.

    The last token of an answer predicts nothing.
    """
    lengths = [(len(prompt), len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(sum, lengths))
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, (num_prompt, num_answer) in enumerate(lengths):
        ids_BL[row, : num_prompt + num_answer] = torch.tensor([*prompts[row], *answers[row]])
        mask_BL[row, : num_prompt + num_answer] = 1
    place_L, lengths_B2 = torch.arange(longest), torch.tensor(lengths)
    first_B1, stop_B1 = lengths_B2[:, :1] - 1, lengths_B2.sum(1, keepdim=True) - 1
    return _without_images(ids_BL, mask_BL), (place_L >= first_B1) & (place_L < stop_B1)


def _without_images(ids_BL: Tensor, mask_BL: Tensor) -> Batch:
    return Batch(ids_BL, torch.zeros(0), torch.zeros(len(ids_BL), dtype=torch.long), mask_BL)

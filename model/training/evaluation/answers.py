"""Answers of a checkpoint to examples: batched, by the rules of offline generation.

Synchronizers can be ablated, to measure what the model uses them for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import torch
from PIL import Image
from torch import Tensor, nn

from model.checkpoint import load, store
from model.mm_interleaved import Batch, MMInterleaved
from model.offline.generation import TextGeneration, generate_texts
from model.offline.story import Story
from model.processor import Processor
from model.segments import ImageSegment, RoleSegment, Segment, TextSegment
from model.synchronizer.unet_synchronizer import SynchronizerBlock
from model.text_decoder.text_decoder import ImageAttention
from model.training.evaluation.images import ImageGenerator, ImageSettings, Unfinished
from model.training.world.example import Example, GeneratedAnswer, Part

SYNCHRONIZERS = ("text", "decoder")
MAX_TOKENS = 80  # Of a text between two images.
_BATCH = 16
_PLACEHOLDER_VALUE = 0.5
_IMAGES_OF_AN_ANSWER = 100


def max_images(example: Example) -> int:
    """The limit of images: one more than expected, so that an answer with too many shows."""
    return sum(not isinstance(part, str) for part in example.answer) + 1


class Answerer(Protocol):
    """Answers examples: a checkpoint in this process, or a served system."""

    def answer(self, examples: Sequence[Example], first: int = 0) -> list[GeneratedAnswer]:
        """An answer for each example; `first` is the number of the first example, for seeds."""
        ...


@dataclass(frozen=True)
class AnswerOptions:
    """How to generate."""

    drawing: ImageSettings = ImageSettings()
    temperature: float = 0.0
    seed: int = 0


@dataclass
class _Draft:
    """An unfinished answer."""

    ids: tuple[int, ...]
    pixels_N3SS: Tensor
    number: int
    max_images: int
    parts: list[str | Image.Image] = field(default_factory=list)
    num_images: int = 0  # Of the answer.
    asks: bool = False
    ended: bool = False
    is_over: bool = False


class OfflineAnswerer:
    """Answers with one checkpoint, in this process, in alternating rounds of text and images."""

    def __init__(
        self, model: MMInterleaved, processor: Processor, answering: AnswerOptions
    ) -> None:
        self.model, self.processor, self.answering = model, processor, answering
        self.special = processor.config.special_tokens
        self.generator = ImageGenerator(model, answering.drawing)
        sample = answering.temperature > 0
        self.text = TextGeneration(
            max_length=MAX_TOKENS,
            min_length=0,
            num_beams=1,
            use_nucleus_sampling=sample,
            temperature=answering.temperature or 1.0,
            repetition_penalty=1.0,
        )

    @classmethod
    def load(
        cls, checkpoint: Path, answering: AnswerOptions, ablated: Collection[str] = ()
    ) -> Self:
        """The answerer of a checkpoint directory, some of its synchronizers `ablated`."""
        processor = Processor(store.load_config(checkpoint), store.load_tokenizer(checkpoint))
        model = load.load_model(checkpoint)
        ablate(model, ablated)
        return cls(model, processor, answering)

    def answer(self, examples: Sequence[Example], first: int = 0) -> list[GeneratedAnswer]:
        """Continue the prompt of each example until the model ends."""
        answers: list[GeneratedAnswer] = []
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            drafts = [self._begin(e, first + start + i) for i, e in enumerate(batch)]
            generator = torch.Generator().manual_seed(self.answering.seed + first + start)
            while not all(draft.is_over for draft in drafts):
                self._write([t for t in drafts if not t.is_over], generator)
                self._generate([t for t in drafts if t.asks])
            answers += [GeneratedAnswer(tuple(t.parts), t.ended) for t in drafts]
        return answers

    def _begin(self, example: Example, number: int) -> _Draft:
        story = Story.from_context([segment_of(part) for part in example.given], self.processor)
        return _Draft(story.input_ids, story.pixels_N3SS, number, max_images(example))

    def _write(self, drafts: Sequence[_Draft], generator: torch.Generator) -> None:
        """Add a text to each; it ends with `<soi>`, with `<eos>`, or at the limit."""
        batch = _padded_in_front(drafts, self.special.pad_token_id)
        output_BL = generate_texts(self.model, batch, self.text, generator)[:, 1:]
        stops = (self.special.eos_token_id, self.special.soi_token_id)
        for draft, ids in zip(drafts, output_BL.tolist(), strict=True):
            end = next((i for i, index in enumerate(ids) if index in stops), None)
            words = ids[:end]
            if text := self.processor.decode(words):
                draft.parts.append(text)
            draft.ids = (*draft.ids, *words)
            draft.ended = end is not None and ids[end] == self.special.eos_token_id
            wants_image = end is not None and not draft.ended
            draft.asks = wants_image and draft.num_images < draft.max_images
            draft.is_over = not draft.asks

    def _generate(self, drafts: Sequence[_Draft]) -> None:
        """Generate the image that each draft requests."""
        todo = []
        for draft in drafts:
            pixels_N3SS = draft.pixels_N3SS
            placeholder_13SS = pixels_N3SS.new_full((1, *pixels_N3SS.shape[1:]), _PLACEHOLDER_VALUE)
            draft.ids = (*draft.ids, *self.processor.image_ids)
            draft.pixels_N3SS = torch.cat((pixels_N3SS, placeholder_13SS))
            number = _IMAGES_OF_AN_ANSWER * draft.number + draft.num_images
            seed = self.answering.seed + number
            num_given = len(pixels_N3SS) - draft.num_images
            todo.append(Unfinished(draft.ids, draft.pixels_N3SS, num_given, seed))
        for draft, image in zip(drafts, self.generator.generate(todo), strict=True):
            draft.pixels_N3SS[-1] = self.processor.pixels(image)
            draft.parts.append(image)
            draft.num_images += 1
            draft.asks = False


def segment_of(part: Part | RoleSegment) -> Segment:
    """A part of an example as a client sends it."""
    if isinstance(part, RoleSegment):
        return part
    return TextSegment(part) if isinstance(part, str) else ImageSegment(part.render(), "")


def _padded_in_front(drafts: Sequence[_Draft], pad_token_id: int) -> Batch:
    """The sequences as one batch, padded on the left."""
    length = max(len(draft.ids) for draft in drafts)
    rows = [
        torch.tensor([pad_token_id] * (length - len(draft.ids)) + list(draft.ids))
        for draft in drafts
    ]
    ids_BL = torch.stack(rows)
    lengths_B1 = torch.tensor([[len(draft.ids)] for draft in drafts])
    return Batch(
        ids_BL,
        torch.cat([draft.pixels_N3SS for draft in drafts]),
        torch.tensor([len(draft.pixels_N3SS) for draft in drafts]),
        (torch.arange(length) >= length - lengths_B1).long(),
    )


@torch.no_grad()
def ablate(model: MMInterleaved, synchronizers: Collection[str]) -> None:
    """Make some of `SYNCHRONIZERS` add nothing: gates of 0, last convolutions of 0."""
    for module in model.modules():
        if isinstance(module, ImageAttention) and "text" in synchronizers:
            module.gate.zero_()
        if isinstance(module, SynchronizerBlock) and "decoder" in synchronizers:
            for parameter in module.conv.parameters():
                nn.init.zeros_(parameter)

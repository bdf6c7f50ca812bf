"""What a checkpoint answers to examples: many at once, by the rules of offline generation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import load, store
from model.mm_interleaved import Batch, MMInterleaved
from model.offline.generation import TextGeneration, generate_texts
from model.offline.story import Story
from model.processor import Processor
from model.segments import ImageSegment, TextSegment
from model.training.drawing import Artist, DrawingOptions, Unfinished
from model.training.silence import silence
from model.training.world.examples import Example

MAX_TOKENS = 80  # Of a text between two pictures.
_BATCH = 16
_UNDRAWN = 0.5
_PICTURES_OF_AN_ANSWER = 100


@dataclass(frozen=True)
class Answer:
    """The texts and pictures of an answer, in order; `ended` if it stopped by itself."""

    parts: tuple[str | Image.Image, ...]
    ended: bool

    @property
    def text(self) -> str:
        """All text, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """All pictures."""
        return tuple(part for part in self.parts if not isinstance(part, str))


def max_pictures(example: Example) -> int:
    """How many pictures an answer may have: one more than it should, to see that it does not."""
    return sum(not isinstance(part, str) for part in example.answer) + 1


class Answerer(Protocol):
    """Whatever can answer examples."""

    def answer(self, examples: Sequence[Example], first: int = 0) -> list[Answer]:
        """An answer for each example; `first` is the number of the first one, for seeds."""
        ...


@dataclass(frozen=True)
class Answering:
    """How to generate."""

    drawing: DrawingOptions = DrawingOptions()
    temperature: float = 0.0
    seed: int = 0


@dataclass
class _Telling:
    """An answer in the making."""

    ids: tuple[int, ...]
    pixels_N3SS: Tensor
    number: int
    max_pictures: int
    parts: list[str | Image.Image] = field(default_factory=list)
    num_pictures: int = 0
    asks: bool = False
    ended: bool = False
    is_over: bool = False


class OfflineAnswerer:
    """Answers with one checkpoint, in this process. Rounds of text and of pictures alternate."""

    def __init__(self, model: MMInterleaved, processor: Processor, answering: Answering) -> None:
        self.model, self.processor, self.answering = model, processor, answering
        self.special = processor.config.special_tokens
        self.artist = Artist(model, answering.drawing)
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
    def load(cls, checkpoint: Path, answering: Answering, silenced: Collection[str] = ()) -> Self:
        """The answerer of a checkpoint directory, some of its synchronizers `silenced`."""
        processor = Processor(store.load_config(checkpoint), store.load_tokenizer(checkpoint))
        model = load.load_model(checkpoint)
        silence(model, silenced)
        return cls(model, processor, answering)

    def answer(self, examples: Sequence[Example], first: int = 0) -> list[Answer]:
        """Go on from each example's prompt until the model ends."""
        answers: list[Answer] = []
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            tellings = [self._begin(e, first + start + i) for i, e in enumerate(batch)]
            generator = torch.Generator().manual_seed(self.answering.seed + first + start)
            while not all(telling.is_over for telling in tellings):
                self._write([t for t in tellings if not t.is_over], generator)
                self._draw([t for t in tellings if t.asks])
            answers += [Answer(tuple(t.parts), t.ended) for t in tellings]
        return answers

    def _begin(self, example: Example, number: int) -> _Telling:
        segments = [
            TextSegment(part) if isinstance(part, str) else ImageSegment(part.render(), "")
            for part in example.prompt
        ]
        story = Story.from_context(segments, self.processor)
        return _Telling(story.input_ids, story.pixels_N3SS, number, max_pictures(example))

    def _write(self, tellings: Sequence[_Telling], generator: torch.Generator) -> None:
        """A text for each; it ends by asking for a picture, by the end of text, or too long."""
        batch = _padded_in_front(tellings, self.special.pad_token_id)
        output_BL = generate_texts(self.model, batch, self.text, generator)[:, 1:]
        stops = (self.special.eos_token_id, self.special.soi_token_id)
        for telling, ids in zip(tellings, output_BL.tolist(), strict=True):
            end = next((i for i, index in enumerate(ids) if index in stops), None)
            words = ids[:end]
            if text := self.processor.decode(words):
                telling.parts.append(text)
            telling.ids = (*telling.ids, *words)
            telling.ended = end is not None and ids[end] == self.special.eos_token_id
            wants_picture = end is not None and not telling.ended
            telling.asks = wants_picture and telling.num_pictures < telling.max_pictures
            telling.is_over = not telling.asks

    def _draw(self, tellings: Sequence[_Telling]) -> None:
        """The picture that each asks for."""
        todo = []
        for telling in tellings:
            pixels_N3SS = telling.pixels_N3SS
            undrawn_13SS = pixels_N3SS.new_full((1, *pixels_N3SS.shape[1:]), _UNDRAWN)
            telling.ids = (*telling.ids, *self.processor.image_ids)
            telling.pixels_N3SS = torch.cat((pixels_N3SS, undrawn_13SS))
            number = _PICTURES_OF_AN_ANSWER * telling.number + telling.num_pictures
            seed = self.answering.seed + number
            todo.append(Unfinished(telling.ids, telling.pixels_N3SS, seed))
        for telling, picture in zip(tellings, self.artist.draw(todo), strict=True):
            telling.pixels_N3SS[-1] = self.processor.pixels(picture)
            telling.parts.append(picture)
            telling.num_pictures += 1
            telling.asks = False


def _padded_in_front(tellings: Sequence[_Telling], pad_token_id: int) -> Batch:
    """The sequences as one batch, their ends aligned."""
    length = max(len(telling.ids) for telling in tellings)
    rows = [
        torch.tensor([pad_token_id] * (length - len(telling.ids)) + list(telling.ids))
        for telling in tellings
    ]
    ids_BL = torch.stack(rows)
    lengths_B1 = torch.tensor([[len(telling.ids)] for telling in tellings])
    return Batch(
        ids_BL,
        torch.cat([telling.pixels_N3SS for telling in tellings]),
        torch.tensor([len(telling.pixels_N3SS) for telling in tellings]),
        (torch.arange(length) >= length - lengths_B1).long(),
    )

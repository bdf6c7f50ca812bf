"""What a checkpoint answers to an example, by the offline engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image

from model.checkpoint import store
from model.engine.offline import OfflineEngine, OfflineOptions, Round, Story
from model.engine.protocol import ImageSegment, TextSegment
from model.generation import TextGeneration
from model.processor import Processor
from model.training.world.examples import Example

_MAX_ROUNDS = 12
_MAX_TOKENS = 80


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


@dataclass(frozen=True)
class Answering:
    """How to generate."""

    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    scheduler: str = "dpmsolver++"
    temperature: float = 0.0
    seed: int = 0


class Answerer:
    """Answers examples with one checkpoint."""

    def __init__(self, model: object, processor: Processor, answering: Answering) -> None:
        sample = answering.temperature > 0
        text = TextGeneration(
            max_length=_MAX_TOKENS,
            min_length=0,
            num_beams=1,
            use_nucleus_sampling=sample,
            temperature=answering.temperature or 1.0,
            repetition_penalty=1.0,
        )
        options = OfflineOptions(
            text=text,
            num_inference_steps=answering.num_inference_steps,
            guidance_scale=answering.guidance_scale,
            scheduler=answering.scheduler,
            auto_end=True,
            num_iter=_MAX_ROUNDS,
            seed=answering.seed,
        )
        self.processor = processor
        self.engine = OfflineEngine(model, processor, options)  # type: ignore[arg-type]

    @classmethod
    def load(cls, checkpoint: Path, answering: Answering) -> Self:
        """The answerer of a checkpoint directory."""
        processor = Processor(store.load_config(checkpoint), store.load_tokenizer(checkpoint))
        return cls(store.load_model(checkpoint), processor, answering)

    def answer(self, example: Example) -> Answer:
        """Go on from the example's prompt until the model ends."""
        context = tuple(
            TextSegment(part) if isinstance(part, str) else ImageSegment(part.render(), "")
            for part in example.prompt
        )
        parts: list[str | Image.Image] = []
        last: Round | None = None
        for last in self.engine.run(Story.from_context(context, self.processor)):
            parts += [last.text] if last.text else []
            parts += list(last.images)
        return Answer(tuple(parts), last is not None and last.stopped)

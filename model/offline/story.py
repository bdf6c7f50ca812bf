"""The official inference loop: text and images in turn, in one process, without a service.

Legend: N images, S side of an image.

A story grows round by round. A text round continues it. A text that ends with `<soi>` makes the
next round generate an image, and a text round follows each image. After `<eos>` the next round
continues the text, unless `auto_end` is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from model.mm_interleaved import Batch, MMInterleaved
from model.offline.generation import (
    TextGeneration,
    generate_scores,
    generate_texts,
    image_conditions,
)
from model.processor import IMAGE_TOKEN, SOI_TOKEN, Processor, to_image
from model.segments import Segment

Mode = Literal["generate_texts", "generate_images"]

_PLACEHOLDER_VALUE = 0.5


@dataclass(frozen=True)
class OfflineOptions:
    """How to generate. The defaults are those of the official inference configuration.

    Attributes:
        text: sampling of a text round.
        num_inference_steps: denoising steps of an image.
        guidance_scale: guidance of an image; None: the checkpoint's (officially 7.5).
        guidance_rescale: the official code documents 0.7 and runs with 0.
        scheduler: kind of diffusion sampler.
        num_images: images generated in a round; the first one enters the story.
        force_image: every text round ends with `<soi>`.
        replace_text: `multiround_context` of the story replaces the text of a text round.
        auto_end: stop after `<eos>`.
        num_iter: rounds; the number of the story overrides it, unless `auto_end` is set.
        seed: of text sampling and of images; None: images take the checkpoint's seed.
    """

    text: TextGeneration = field(
        default_factory=lambda: TextGeneration(
            max_length=90, num_beams=1, use_nucleus_sampling=True, repetition_penalty=1.3
        )
    )
    num_inference_steps: int = 30
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    scheduler: str = "ddpm"
    num_images: int = 1
    mode: Mode = "generate_texts"
    force_image: bool = False
    replace_text: bool = False
    auto_end: bool = False
    num_iter: int = 2
    seed: int | None = None


@dataclass(frozen=True)
class Story:
    """A context as ids and pixel values, and the options of its document.

    `num_given` of the images come before the answer; None means all.
    """

    input_ids: tuple[int, ...]
    pixels_N3SS: torch.Tensor
    num_given: int | None = None
    mode: Mode | None = None
    num_iter: int | None = None
    replacements: tuple[str, ...] = ()

    @classmethod
    def from_context(cls, context: Sequence[Segment], processor: Processor) -> Self:
        """A story that begins with this content."""
        prompt = processor.encode(tuple(context))
        pixels_N3SS = _pixels(prompt.images, processor)
        return cls(prompt.input_ids, pixels_N3SS, len(pixels_N3SS))

    @classmethod
    def from_annotation(cls, entry: Mapping[str, Any], root: Path, processor: Processor) -> Self:
        """A story in the official example format (`annt.json`).

        Args:
            entry: `sentences`, `images` (paths below `root`), for each image the index of its
                sentence (`sentence_ixs`) and whether it stands before it (`image_first`), and
                optionally `generate_mode`, `num_iter`, `multiround_context`. In the mode
                `generate_images` the last image is a placeholder for the one to generate.
            root: directory of the image paths.
            processor: of the checkpoint.

        Raises:
            ValueError: it has no image, or is too long.
        """
        config = processor.config
        image_text = SOI_TOKEN + IMAGE_TOKEN * config.num_img_token
        sentences = list(entry["sentences"])
        for index, first in zip(entry["sentence_ixs"], entry["image_first"], strict=True):
            pair = (image_text, sentences[index]) if first else (sentences[index], image_text)
            sentences[index] = "".join(pair)
        bos = config.special_tokens.bos_token_id
        ids = [bos, *processor.encode_trusted(" ".join(sentences))][: config.seq_len]
        # As officially, paths may also be relative to the working directory.
        paths = [p if (p := root / name).is_file() else Path(name) for name in entry["images"]]
        if not paths:
            raise ValueError("a story needs at least one image, if only a placeholder")
        if ids.count(config.special_tokens.image_token_id) != len(paths) * config.num_img_token:
            raise ValueError(f"images must fit into {config.seq_len} tokens, each with a sentence")
        return cls(
            tuple(ids),
            torch.stack([_read_pixels(path, processor) for path in paths]),
            mode=entry.get("generate_mode"),
            num_iter=entry.get("num_iter"),
            replacements=tuple(entry.get("multiround_context", ())),
        )

    def asking_for_image(self, processor: Processor) -> Self:
        """The same story with a placeholder for the next image at its end."""
        side = processor.config.vision.image_size
        undrawn = self.pixels_N3SS.new_full((1, 3, side, side), _PLACEHOLDER_VALUE)
        return replace(
            self,
            input_ids=(*self.input_ids, *processor.image_ids),
            pixels_N3SS=torch.cat((self.pixels_N3SS, undrawn)),
        )


def read_annotations(path: Path, processor: Processor, root: Path | None = None) -> list[Story]:
    """The stories of an official example file; image paths are below `root`, else the file."""
    entries = json.loads(path.read_text())
    return [Story.from_annotation(entry, root or path.parent, processor) for entry in entries]


@dataclass(frozen=True)
class Round:
    """The text with its ids, or the images, that a round added. `story` includes them."""

    story: Story
    text: str = ""
    token_ids: tuple[int, ...] = ()
    images: tuple[Image.Image, ...] = ()
    stopped: bool = False


class OfflineEngine:
    """Runs stories on a whole model."""

    def __init__(self, model: MMInterleaved, processor: Processor, options: OfflineOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.special = processor.config.special_tokens
        device = next(model.parameters()).device
        self.generator = torch.Generator(device)
        if options.seed is not None:
            self.generator.manual_seed(options.seed)
        else:
            self.generator.seed()

    def run(self, story: Story) -> Iterator[Round]:
        """Yield the rounds of a story as they are done."""
        options = self.options
        mode = story.mode or options.mode
        own = None if options.auto_end else story.num_iter
        for number in range(options.num_iter if own is None else own):
            if mode == "generate_images":
                done = self.generate_images(story)
                mode = "generate_texts"
            else:
                done = self.write(story, number)
                mode = "generate_images" if self._asks_for_image(done.story) else mode
            story = done.story
            yield done
            if options.auto_end and done.stopped:
                return

    def score(self, story: Story, options: Sequence[str]) -> list[float]:
        """The log-likelihood of each text as the continuation of a story."""
        batch = self._batch(story)
        device = batch.text_ids_BL.device
        rows = [torch.tensor(self.processor.encode_text(option)) for option in options]
        ids_OL = pad_sequence(rows, batch_first=True, padding_value=self.special.pad_token_id)
        mask_OL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        scores_O = generate_scores(self.model, batch, ids_OL.to(device), mask_OL.to(device))
        return scores_O.tolist()

    def write(self, story: Story, number: int = 0) -> Round:
        """A text round; at its end the story may request an image."""
        sampled = self._sample(story)
        stopped = sampled[-1:] == [self.special.eos_token_id]
        ids = sampled[:-1] if stopped else list(sampled)
        if self.options.replace_text and number < len(story.replacements):
            replacement = self.processor.encode_trusted(story.replacements[number])
            ids, stopped = (replacement, False) if replacement else (ids, stopped)
        asks = ids[-1:] == [self.special.soi_token_id]
        grown = replace(story, input_ids=(*story.input_ids, *(ids[:-1] if asks else ids)))
        if asks or self.options.force_image:
            grown = grown.asking_for_image(self.processor)
        return Round(grown, self.processor.decode(sampled), tuple(sampled), stopped=stopped)

    def _sample(self, story: Story) -> list[int]:
        """New ids, with the one that ended them."""
        batch = self._batch(story)
        ids_1L = generate_texts(self.model, batch, self.options.text, self.generator)
        return ids_1L[0, 1:].tolist()

    @torch.no_grad()
    def generate_images(self, story: Story) -> Round:
        """An image round: generate the last image of the story."""
        options, ids = self.options, story.input_ids
        start = len(ids) - ids[::-1].index(self.special.soi_token_id)
        # Nothing after the `<soi>` influences the image. The batch needs its placeholders, but not
        # the text after them.
        end = start + self.model.config.num_img_token
        batch = self._batch(story, ids[:end])
        last = torch.tensor([len(story.pixels_N3SS) - 1], device=batch.text_ids_BL.device)
        conditions = image_conditions(self.model, batch, last)
        decoder = self.model.config.image_decoder
        base = decoder.base_seed if options.seed is None else options.seed
        generated = [
            self.model.image_decoder.generate_images(
                conditions.context_NKD,
                conditions.context_mask_NK,
                conditions.maps,
                conditions.visible_N1,
                options.num_inference_steps,
                decoder.guidance_of(options.guidance_scale),
                options.guidance_rescale,
                options.scheduler,
                seed=base + number,
            )[0]
            for number in range(options.num_images)
        ]
        images = tuple(to_image(pixels_3SS) for pixels_3SS in generated)
        drawn = self.processor.pixels(images[0]).to(story.pixels_N3SS)
        pixels = torch.cat((story.pixels_N3SS[:-1], drawn[None]))
        return Round(replace(story, pixels_N3SS=pixels), images=images)

    def _asks_for_image(self, story: Story) -> bool:
        """Whether the story ends with an image that is not generated yet."""
        return story.input_ids[-1] == self.special.image_token_id

    def _batch(self, story: Story, ids: Sequence[int] | None = None) -> Batch:
        """A batch of the story alone; `ids` are its own by default."""
        parameter = next(self.model.parameters())
        num_images = len(story.pixels_N3SS)
        num_given = num_images if story.num_given is None else story.num_given
        return Batch(
            torch.tensor([story.input_ids if ids is None else ids], device=parameter.device),
            story.pixels_N3SS.to(parameter),
            torch.tensor([num_images], device=parameter.device),
            num_given_B=torch.tensor([num_given], device=parameter.device),
        )


def _read_pixels(path: Path, processor: Processor) -> torch.Tensor:
    with Image.open(path) as image:
        return processor.pixels(image)


def _pixels(images: Sequence[Image.Image], processor: Processor) -> torch.Tensor:
    """[N, 3, S, S]; N may be 0."""
    side = processor.config.vision.image_size
    if not images:
        return torch.empty(0, 3, side, side)
    return torch.stack([processor.pixels(image) for image in images])

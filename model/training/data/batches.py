"""Examples to batches: token ids as the server builds them, pixels, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.mm_interleaved import Batch
from model.processor import Processor
from model.segments import ImageSegment, RoleSegment, Segment, TextSegment, TokenSegment
from model.text_decoder import context
from model.training.world.drawable import Drawable
from model.training.world.example import Example, Part

# Ids do not depend on the pixels, and rendering takes time.
_ANY_IMAGE = Image.new("RGB", (1, 1))
_LONGEST_TO_SHORTEST = 1.4  # Of sequences that are padded to one length.


@dataclass(frozen=True)
class Tokenised:
    """One tokenised example.

    Attributes:
        ids: its tokens.
        prompt_length: number of tokens before the first answer.
        example: the source of the tokens.
        asks: whether the tokens end at the `<soi>` of the last image.
        questions: positions of the further questions.
    """

    ids: tuple[int, ...]
    prompt_length: int
    example: Example
    asks: bool = False
    questions: tuple[range, ...] = ()

    @property
    def images(self) -> tuple[Drawable, ...]:
        """The images whose placeholders are among the ids."""
        return self.example.images[:-1] if self.asks else self.example.images


def tokenise(example: Example, processor: Processor, may_ask: bool = False) -> Tokenised:
    """The prompt as the server builds it, then the answer and the end-of-text token.

    Further questions and answers follow, each answer with an end-of-text token.

    With `may_ask` an answer whose last part is an image ends at the `<soi>` of that image, which
    saves reading an image that only the end follows. Unfinished examples always end so.
    """
    given = _segments(example.given)
    prompt = processor.encode(given).input_ids
    answer = _answer_ids(example.answer, processor)
    special = processor.special
    if (may_ask or example.unfinished) and not isinstance(example.answer[-1], str):
        last = len(answer) - answer[::-1].index(special.soi_token_id)
        return Tokenised((*prompt, *answer[:last]), len(prompt), example, asks=True)
    ids = [*prompt, *answer, special.eos_token_id]
    questions = []
    conversation = [*given, RoleSegment("assistant"), *_exactly(example.answer, processor)]
    for question, reply in example.further:
        conversation += [RoleSegment("user"), TextSegment(question)]
        asked = _question_ids(ids, conversation, processor)
        questions.append(range(len(ids), len(ids) + len(asked)))
        ids += [*asked, *processor.encode_text(reply), special.eos_token_id]
        conversation += [RoleSegment("assistant"), *_exactly((reply,), processor)]
    return Tokenised(tuple(ids), len(prompt), example, questions=tuple(questions))


def _segments(parts: Iterable[Part | RoleSegment]) -> list[Segment]:
    """Parts as a client sends them."""
    segments: list[Segment] = []
    for part in parts:
        if isinstance(part, RoleSegment):
            segments.append(part)
        elif isinstance(part, str):
            segments.append(TextSegment(part))
        else:
            segments.append(ImageSegment(_ANY_IMAGE, ""))
    return segments


def _answer_ids(parts: Iterable[Part], processor: Processor) -> list[int]:
    """Parts as the model generates them: white space next to an image stays."""
    ids: list[int] = []
    for part in parts:
        ids += processor.encode_text(part) if isinstance(part, str) else processor.image_ids
    return ids


def _exactly(parts: Iterable[Part], processor: Processor) -> list[Segment]:
    """The segments of a generated answer."""
    return [
        TokenSegment(tuple(processor.encode_text(part)))
        if isinstance(part, str)
        else ImageSegment(_ANY_IMAGE, "")
        for part in parts
    ]


def _question_ids(
    ids: Sequence[int], conversation: Sequence[Segment], processor: Processor
) -> list[int]:
    """The ids between the end of an answer, `ids`, and the answer to the question after it.

    Without a chat template a question directly follows the end-of-text token.

    Raises:
        ValueError: the chat template does not end answers with the end-of-text token.
    """
    if processor.chat_template is None:
        question = conversation[-1]
        assert isinstance(question, TextSegment)
        return processor.encode_text(question.text)
    prompt = list(processor.encode(conversation).input_ids)
    if prompt[: len(ids)] != list(ids):
        raise ValueError("the chat template does not end answers with the end-of-text token")
    return prompt[len(ids) :]


def collate(
    sequences: Sequence[Tokenised],
    processor: Processor,
    learn_prompt: bool,
    with_pixels: bool = True,
    only_after_image: bool = False,
) -> tuple[Batch, Tensor]:
    """A right-padded batch and its labels.

    Args:
        sequences: its rows.
        processor: tokens and image size.
        learn_prompt: whether the prompt is learned as well.
        with_pixels: whether the batch holds the images' pixels.
        only_after_image: leave out the text before the first image.

    Returns:
        The batch, and its labels [B, L - 1].
    """
    special, size = processor.special, processor.config.vision.image_size
    length = max(len(sequence.ids) for sequence in sequences)
    ids_BL = torch.full((len(sequences), length), special.pad_token_id)
    mask_BL = torch.zeros_like(ids_BL)
    for row, sequence in enumerate(sequences):
        ids_BL[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        mask_BL[row, : len(sequence.ids)] = 1
    images = images_of(sequences) if with_pixels else []
    pixels = [pixels_of(image.render(size)) for image in images]
    pixels_N3SS = torch.stack(pixels) if pixels else torch.zeros(0, 3, size, size)
    counts = torch.tensor([len(sequence.images) for sequence in sequences])
    given = torch.tensor([sequence.example.num_given_images for sequence in sequences])
    lengths = 0 if learn_prompt else [sequence.prompt_length for sequence in sequences]
    rules = context.LabelRules(lengths, only_after_image)
    labels_BL = context.training_labels(ids_BL, mask_BL, special, rules)
    for labels_L, sequence in zip(labels_BL, sequences, strict=True):
        for question in [] if learn_prompt else sequence.questions:
            labels_L[question.start - 1 : question.stop - 1] = context.IGNORED
    batch = Batch(ids_BL, pixels_N3SS, counts, mask_BL, num_given_B=given)
    return batch, labels_BL


def of_similar_length(sequences: Sequence[Tokenised]) -> Iterator[list[Tokenised]]:
    """Split some sequences, so that a question is not padded to the length of a story."""
    part: list[Tokenised] = []
    for sequence in sorted(sequences, key=lambda each: len(each.ids)):
        if part and len(sequence.ids) > _LONGEST_TO_SHORTEST * len(part[0].ids):
            yield part
            part = []
        part.append(sequence)
    yield part


def images_of(sequences: Sequence[Tokenised]) -> list[Drawable]:
    """The images that some sequences hold, in reading order."""
    return [image for sequence in sequences for image in sequence.images]


def pixels_of(image: object) -> Tensor:
    """An image as [3, S, S] in [0, 1]."""
    values_SSC = np.asarray(image, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(values_SSC.transpose(2, 0, 1).copy())

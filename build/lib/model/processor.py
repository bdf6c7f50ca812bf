"""Model inputs from content: prompt ids by the official rules, and pixel values of images.

A prompt is `bos`, then the context in reading order. An image is one `soi` token followed by
`num_img_token` placeholders. White space next to an image is removed, as the official tokenizer
does around special tokens; neighbouring texts are joined by one space. Each run of text between
images is tokenised separately.

Where the tokenizer has a chat template, the template's text stands around the content of every
message, and the answer follows its generation prompt. Without one, messages form one document with
a line break after the text of each, and the answer continues it.

Special tokens spelled in a user's text are ordinary characters: they never become special ids.
Only `encode_trusted`, for documents that the operator wrote, reads them as special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from model.config.schema import MMInterleavedConfig
from model.segments import ImageSegment, Role, Segment, TextSegment, TokenSegment, messages_of

SOI_TOKEN = "<|beginofimage|>"
IMAGE_TOKEN = "<|image|>"

# Stands for the content of a message while a chat template is applied.
_CONTENT = "\ue000{}\ue001"
_CONTENTS = re.compile("\ue000([0-9]+)\ue001")
# Beyond this ratio of the sides, resizing before cropping would need unbounded memory.
_MAX_FULL_RESIZE_RATIO = 16


class ChatTemplateError(ValueError):
    """The chat template of the language model refuses the roles of the messages."""


class ChatTemplate:
    """The chat template of a tokenizer. It never sees what messages say: no text can break it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def around(self, roles: Sequence[Role]) -> list[list[int]]:
        """The ids before, between and after the contents of messages; the answer follows them.

        A `bos` that the template begins with is left out.

        Raises:
            ChatTemplateError: the template does not accept these roles.
        """
        messages = [
            {"role": role, "content": _CONTENT.format(number)} for number, role in enumerate(roles)
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses {', '.join(roles)}") from error
        parts = _CONTENTS.split(text.removeprefix(self._tokenizer.bos_token or ""))
        if parts[1::2] != [str(number) for number in range(len(roles))]:
            raise ChatTemplateError(f"the chat template leaves out some of {', '.join(roles)}")
        return [self._tokenizer.encode(part, add_special_tokens=False) for part in parts[::2]]


@dataclass(frozen=True)
class Prompt:
    """The ids of a context, with its images and the hashes of their bytes in reading order."""

    input_ids: tuple[int, ...]
    images: tuple[Image.Image, ...]
    digests: tuple[str, ...]


class Processor:
    """Turns contexts into prompts, images into pixel values, and ids back into text."""

    def __init__(self, config: MMInterleavedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.special = config.special_tokens
        # A copy, because encoding spelled special tokens as text is a state of the tokenizer.
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        self.chat_template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._reserved = {
            token.content: index
            for index, token in self._plain.get_added_tokens_decoder().items()
            if token.special
        }
        alternatives = sorted(map(re.escape, self._reserved), key=len, reverse=True)
        self._reserved_pattern = re.compile(f"({'|'.join(alternatives)})")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The ids that stand for one image."""
        special = self.special
        return (special.soi_token_id, *[special.image_token_id] * self.config.num_img_token)

    def encode(self, context: Sequence[Segment], begin_image: bool = False) -> Prompt:
        """The prompt of a context; with `begin_image` it ends with the `soi` of a further image.

        Raises:
            ChatTemplateError: the chat template does not accept the roles of the context.
            ValueError: generated ids contain an image's tokens, but there is no image.
        """
        ids = [self.special.bos_token_id]
        if self.chat_template is None:
            ids += self._content_ids(_as_document(context), begin_image)
        else:
            *messages, answer = messages_of(context)
            around = self.chat_template.around([message.role for message in messages])
            for before, message in zip(around, messages, strict=False):
                ids += [*before, *self._content_ids(message.segments)]
            ids += [*around[-1], *self._content_ids(answer.segments, begin_image)]
        images = [segment for segment in context if isinstance(segment, ImageSegment)]
        return Prompt(tuple(ids), tuple(s.image for s in images), tuple(s.digest for s in images))

    def _content_ids(self, content: Sequence[Segment], begin_image: bool = False) -> list[int]:
        """The ids of segments without roles."""
        ids: list[int] = []
        for position, segment in enumerate(content):
            if isinstance(segment, ImageSegment):
                ids.extend(self.image_ids)
            elif isinstance(segment, TokenSegment):
                ids.extend(self.generated_ids(segment.token_ids))
            elif not (position and isinstance(content[position - 1], TextSegment)):
                ids.extend(self.encode_text(self._run_of_text(content, position, begin_image)))
        return [*ids, self.special.soi_token_id] if begin_image else ids

    def _run_of_text(self, context: Sequence[Segment], start: int, begin_image: bool) -> str:
        """The neighbouring texts from `start` on, stripped next to an image."""
        stop = start
        texts: list[str] = []
        while stop < len(context) and isinstance(segment := context[stop], TextSegment):
            texts.append(segment.text)
            stop += 1
        text = " ".join(texts)
        if start and isinstance(context[start - 1], ImageSegment):
            text = text.lstrip()
        if isinstance(context[stop], ImageSegment) if stop < len(context) else begin_image:
            text = text.rstrip()
        return text

    def encode_text(self, text: str) -> list[int]:
        """The ids of user text, never of a special token, even if the text spells one."""
        ids = self._ids(text)
        if not self._holds_special(ids):
            return ids
        # Merges of the vocabulary can turn the spelling of a special token into its id: split it.
        pieces: Iterable[str] = self._reserved_pattern.split(text)
        return [index for piece in pieces for index in self._ids_of_piece(piece)]

    def _ids_of_piece(self, piece: str) -> list[int]:
        ids = self._ids(piece)
        if not self._holds_special(ids):
            return ids
        return [index for half in (piece[:1], piece[1:]) for index in self._ids(half)]

    def encode_trusted(self, text: str) -> list[int]:
        """The ids of text with special tokens; white space around them is removed."""
        parts = self._reserved_pattern.split(text)
        ids: list[int] = []
        for position, part in enumerate(parts):
            if position % 2:
                ids.append(self._reserved[part])
                continue
            part = part.lstrip() if position else part
            part = part.rstrip() if position < len(parts) - 1 else part
            ids.extend(self._ids(part))
        return ids

    def generated_ids(self, token_ids: Sequence[int]) -> list[int]:
        """Sampled ids as part of a context: without the token that ended them.

        Raises:
            ValueError: they contain an image's tokens before their end.
        """
        ends = (self.special.eos_token_id, self.special.soi_token_id)
        ids = list(token_ids[:-1] if token_ids and token_ids[-1] in ends else token_ids)
        if self.special.soi_token_id in ids or self.special.image_token_id in ids:
            raise ValueError("generated ids hold an image's tokens where no image stands")
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._plain.decode(list(token_ids), skip_special_tokens=True)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Pixel values of an image at the visual tokenizer's size; see `pixel_values`."""
        return pixel_values(image, self.config.vision.image_size)

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        return self._plain.encode(text, add_special_tokens=False).ids

    def _holds_special(self, ids: Iterable[int]) -> bool:
        return not set(self._reserved.values()).isdisjoint(ids)


def _as_document(context: Sequence[Segment]) -> list[Segment]:
    """The segments of all messages, and of the answer, as one text without roles."""
    *messages, answer = messages_of(context)
    segments: list[Segment] = []
    for message in messages:
        if segments and isinstance(last := segments[-1], TextSegment):
            segments[-1] = TextSegment(last.text + "\n")
        segments += message.segments
    return segments + answer.segments


def pixel_values(image: Image.Image, side: int) -> torch.Tensor:
    """Pixel values [3, S, S] in [0, 1]: the shorter side resized to S, the centre cropped."""
    values_SSC = np.asarray(centre_crop(image, side), dtype=np.float32) / np.float32(255)
    return torch.from_numpy(values_SSC.transpose(2, 0, 1).copy())


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """An RGB square of `side` pixels from the middle of an image.

    The official transform: halve with a box filter while the shorter side is at least twice too
    long, then resize bicubically, then crop, with offsets rounded down.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    scale = side / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - side) // 2, (height - side) // 2
    if max(image.size) > _MAX_FULL_RESIZE_RATIO * min(image.size):
        # The same result, without computing the pixels that the crop discards.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        return image.resize((side, side), resample=Image.Resampling.BICUBIC, box=box)
    image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    return image.crop((left, top, left + side, top + side))


def to_image(pixels_3HW: torch.Tensor) -> Image.Image:
    """Pixel values in [0, 1] as an 8-bit image, rounded half up like the official code."""
    values_HWC = (pixels_3HW.float() * 255 + 0.5).clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(values_HWC.permute(1, 2, 0).numpy())

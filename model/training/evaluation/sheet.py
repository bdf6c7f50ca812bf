"""A contact sheet of answers: all images, with their texts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image, ImageDraw, ImageFont

from model.training.world.example import Example, GeneratedAnswer

_IMAGE = 152
_GAP = 8
_CELLS_ACROSS = 12
_LINES = 7
_LINE_HEIGHT = 12
_LETTERS = 28
_CELL_HEIGHT = _IMAGE + _LINES * _LINE_HEIGHT + 2 * _GAP

Cell = tuple[str, Image.Image | None]


def contact_sheet(examples: Sequence[Example], answers: Sequence[GeneratedAnswer]) -> Image.Image:
    """Answers as rows: the given image with the wish under it, then each page.

    A wish without an image stands under the first page.
    """
    strips = [_strip(e, a) for e, a in zip(examples, answers, strict=True)]
    longest = max(map(len, strips))
    across = max(1, _CELLS_ACROSS // longest)
    width = longest * (_IMAGE + _GAP) + 2 * _GAP
    rows = -(-len(strips) // across)
    sheet = Image.new("RGB", (across * width, rows * _CELL_HEIGHT), "white")
    for number, cells in enumerate(strips):
        row, column = divmod(number, across)
        left, top = column * width + _GAP, row * _CELL_HEIGHT + _GAP
        for index, cell in enumerate(cells):
            _paint(sheet, cell, left + index * (_IMAGE + _GAP), top)
    return sheet


def _strip(example: Example, answer: GeneratedAnswer) -> list[Cell]:
    words = " ".join(part for part in example.prompt if isinstance(part, str))
    given = [part for part in example.prompt if not isinstance(part, str)]
    pages = _pages(answer)
    if given:
        return [(words, given[0].render(_IMAGE)), *pages]
    if not pages:
        return [(words, None)]
    (text, image), *others = pages
    return [(f"{words} {text}", image), *others]


def _pages(answer: GeneratedAnswer) -> list[Cell]:
    """The images, each with the text before it; the last one also with the text after it."""
    texts: list[str] = [""]
    images: list[Image.Image] = []
    for part in answer.parts:
        if isinstance(part, str):
            texts[-1] += part
        else:
            images.append(part)
            texts.append("")
    if images and texts[-1]:
        ending = texts.pop()
        texts[-1] += " " + ending
    cells = zip_longest((text.strip() for text in texts), images)
    return [(text or "", image) for text, image in cells if text or image]


def _paint(sheet: Image.Image, cell: Cell, left: int, top: int) -> None:
    text, image = cell
    if image is not None:
        resized = image.resize((_IMAGE, _IMAGE), Image.Resampling.LANCZOS)
        sheet.paste(resized, (left, top))
    lines = textwrap.wrap(text, _LETTERS)[:_LINES]
    place = (left, top + _IMAGE + 2)
    font = ImageFont.load_default(size=10)
    ImageDraw.Draw(sheet).multiline_text(place, "\n".join(lines), "black", font, spacing=2)

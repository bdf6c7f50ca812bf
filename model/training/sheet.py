"""A contact sheet: generated stories with their words, to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image, ImageDraw, ImageFont

from model.training.answers import Answer
from model.training.world.examples import Example

_PICTURE = 112
_GAP = 8
_CELLS = 5
_LINES = 6
_LINE_HEIGHT = 12
_LETTERS = 21
_STORIES_ACROSS = 2
_CELL_HEIGHT = _PICTURE + _LINES * _LINE_HEIGHT + 2 * _GAP
_STORY_WIDTH = _CELLS * (_PICTURE + _GAP) + 2 * _GAP
_COLOURS = 255

Cell = tuple[str, Image.Image | None]


def contact_sheet(examples: Sequence[Example], answers: Sequence[Answer]) -> Image.Image:
    """Stories as rows: the given picture with the wish under it, then each page."""
    rows = -(-len(answers) // _STORIES_ACROSS)
    sheet = Image.new("RGB", (_STORIES_ACROSS * _STORY_WIDTH, rows * _CELL_HEIGHT), "white")
    for number, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        row, column = divmod(number, _STORIES_ACROSS)
        left, top = column * _STORY_WIDTH + _GAP, row * _CELL_HEIGHT + _GAP
        for index, cell in enumerate([_given(example), *_pages(answer)][:_CELLS]):
            _paint(sheet, cell, left + index * (_PICTURE + _GAP), top)
    return sheet.quantize(_COLOURS)


def _given(example: Example) -> Cell:
    """The user's picture and words."""
    words = " ".join(part for part in example.prompt if isinstance(part, str))
    return words, example.pictures[0].render(_PICTURE)


def _pages(answer: Answer) -> list[Cell]:
    """The pictures with the text before each; what comes behind the last goes with it."""
    texts: list[str] = [""]
    pictures: list[Image.Image] = []
    for part in answer.parts:
        if isinstance(part, str):
            texts[-1] += part
        else:
            pictures.append(part)
            texts.append("")
    if pictures and texts[-1]:
        ending = texts.pop()
        texts[-1] += " " + ending
    cells = zip_longest((text.strip() for text in texts), pictures)
    return [(text or "", picture) for text, picture in cells if text or picture]


def _paint(sheet: Image.Image, cell: Cell, left: int, top: int) -> None:
    text, picture = cell
    if picture is not None:
        resized = picture.resize((_PICTURE, _PICTURE), Image.Resampling.LANCZOS)
        sheet.paste(resized, (left, top))
    lines = textwrap.wrap(text, _LETTERS)[:_LINES]
    place = (left, top + _PICTURE + 2)
    font = ImageFont.load_default(size=10)
    ImageDraw.Draw(sheet).multiline_text(place, "\n".join(lines), "black", font, spacing=2)

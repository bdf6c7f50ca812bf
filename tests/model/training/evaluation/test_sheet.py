"""A contact sheet holds every story."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from model.training.evaluation.sheet import contact_sheet
from model.training.world.drawn.world import DrawnWorld
from model.training.world.example import Example, GeneratedAnswer


def test_a_sheet_has_room_for_every_image_and_grows_with_its_answers() -> None:
    example = DrawnWorld().example("story", random.Random(1))
    answer = GeneratedAnswer(
        tuple(p if isinstance(p, str) else p.render() for p in example.answer), True
    )
    num_cells = 1 + len(answer.images)  # The given image and its own.
    across = 12 // num_cells
    numbers = (1, across, 2 * across + 1)
    sheets = [contact_sheet([example] * number, [answer] * number) for number in numbers]
    one, row, three_rows = (sheet.size for sheet in sheets)
    assert one[0] > across * num_cells * 152
    assert row == one
    assert three_rows == (one[0], 3 * one[1])
    assert len(np.unique(np.asarray(sheets[0].convert("L")))) > 10


def test_a_wish_without_an_image_stands_under_the_first_page() -> None:
    example = Example("text_to_image", ("Draw a boat.",), ())
    page = Image.new("RGB", (8, 8), "red")
    shown = contact_sheet([example], [GeneratedAnswer((page,), True)])
    missing = contact_sheet([example], [GeneratedAnswer((), True)])
    assert shown.size == missing.size
    assert shown.getpixel((20, 20)) == (255, 0, 0)
    words = [np.asarray(sheet.convert("L"))[162:] for sheet in (shown, missing)]
    assert words[0].min() < 128 and np.array_equal(*words)

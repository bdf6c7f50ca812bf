"""Questions where exactly a thing is, answered by its box."""

from __future__ import annotations

import random

from model.training.world.drawable import Box
from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import groups, side_of

_HUNDREDTHS = 99


def ask(rng: random.Random, scene: StorybookScene) -> tuple[str, str]:
    """A question for the box of a thing that is alone of its noun, and the answer.

    If no thing is, the leftmost of one noun is meant.
    """
    alone = [group for group in groups(scene) if group.number == 1]
    group = rng.choice(alone or groups(scene))
    thing = group.things[0]
    what = group.noun if group.number == 1 else f"leftmost {group.noun}"
    form = (
        "[give [me |]the box of the {x}[.|, please.]|where exactly is the {x}?|"
        "give the bounding box of the {x}[.|]|find the {x} and give its box[.|]|"
        "what are the coordinates of the {x}?]"
    )
    numbers = " ".join(f"{edge:02d}" for edge in hundredths(scene.boxes()[thing]))
    side = phrases.at_side(side_of(thing.x))
    return capitalised(fill(rng, form, x=what)), f"The {what} is {side}, box {numbers}."


def hundredths(box: Box) -> list[int]:
    """The edges of a box as numbers from 0 to 99."""
    return [round(_HUNDREDTHS * edge) for edge in box]


def box_in(text: str) -> Box | None:
    """The box that an answer gives, in [0, 1]; None without four numbers."""
    words = text.replace(",", " ").replace(".", " ").split()
    numbers = [int(word) / _HUNDREDTHS for word in words if word.isdecimal()]
    if len(numbers) != 4:
        return None
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1

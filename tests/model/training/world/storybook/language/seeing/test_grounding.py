from __future__ import annotations

import random

import pytest

from model.training.world.drawable import box_overlap
from model.training.world.storybook.language.seeing.grounding import ask, box_in
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import StorybookScene, StorybookThing

_SETTING = Setting("meadow", 0, "day")
_CATS = tuple(StorybookThing("cat", "normal", x, 0.9) for x in (0.2, 0.45))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("The cat is on the left, box 00 33 66 99.", (0.0, 1 / 3, 2 / 3, 1.0)),
        ("box 10, 20, 30, 40", (10 / 99, 20 / 99, 30 / 99, 40 / 99)),
        ("The cat is on the left.", None),
        ("box 10 20 30", None),
        ("The 2 cats: 10 20 30 40", None),
        ("box \u00b2 20 30 40", None),  # A digit that is no decimal.
        ("", None),
    ],
)
def test_a_box_is_four_numbers(text: str, box: tuple[float, ...] | None) -> None:
    assert box_in(text) == (box if box is None else pytest.approx(box))


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_the_answer_is_the_box_of_the_thing_asked_for() -> None:
    owl = StorybookThing("owl", "normal", 0.8, 0.9)
    scene = StorybookScene(_SETTING, (*_CATS, owl))
    for seed in range(20):
        question, answer = ask(random.Random(seed), scene)
        assert "owl" in question and answer.startswith("The owl is on the right, box ")
        box = box_in(answer)
        assert box is not None and box_overlap(box, scene.boxes()[owl]) > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_of_several_the_leftmost_is_meant_and_said() -> None:
    scene = StorybookScene(_SETTING, _CATS[::-1])
    for seed in range(5):
        question, answer = ask(random.Random(seed), scene)
        assert "leftmost cat" in question and answer.startswith("The leftmost cat is on the left")
        box = box_in(answer)
        assert box is not None and box_overlap(box, scene.boxes()[_CATS[0]]) > 0.9

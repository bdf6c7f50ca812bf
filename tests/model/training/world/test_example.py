from __future__ import annotations

from PIL import Image

from model.segments import RoleSegment
from model.training.world.example import Example, GeneratedAnswer
from tests.model.training.segmented import Squares

FIRST, SECOND, THIRD = (Squares((("red", column, 0),)) for column in range(3))


def test_what_is_given_is_one_message_or_a_conversation() -> None:
    alone = Example("task", ("look", FIRST), ("a square",))
    assert alone.given == ("look", FIRST)
    talk = Example("task", ("and now?",), ("blue",), earlier=((("hello", FIRST), ("red", SECOND)),))
    assert talk.given == (
        "hello", FIRST, RoleSegment("assistant"), "red", SECOND, RoleSegment("user"), "and now?",
    )  # fmt: skip


def test_images_are_in_reading_order_and_those_of_the_answer_are_not_given() -> None:
    example = Example(
        "task", ("now", THIRD), (SECOND, "and", FIRST), earlier=(((FIRST,), (SECOND,)),)
    )
    assert example.images == (FIRST, SECOND, THIRD, SECOND, FIRST)
    assert example.num_given_images == 3
    assert Example("task", ("x",), ("y",)).num_given_images == 0


def test_an_answer_has_its_text_joined_and_its_images_apart() -> None:
    picture = Image.new("RGB", (2, 2))
    answer = GeneratedAnswer(("once ", picture, "upon"), ended=True)
    assert answer.text == "once upon" and answer.images == (picture,)
    assert GeneratedAnswer((), ended=False).text == ""

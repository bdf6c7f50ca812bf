"""Questions, and what counts as a right answer."""

from __future__ import annotations

from collections import Counter

import pytest

from model.training.evaluation.chat.questions import Question, questions

BY_ASK = {question.ask: question for question in questions()}


def test_there_are_two_hundred_of_many_kinds_in_an_even_mix() -> None:
    assert len(BY_ASK) == len(questions()) == 200
    whole = Counter(question.kind for question in questions())
    assert len(whole) >= 8
    for kind, number in Counter(question.kind for question in questions()[:100]).items():
        assert abs(number - whole[kind] / 2) <= 1


@pytest.mark.parametrize(
    ("ask", "right", "wrong"),
    [
        ("What is the capital of France?", "It's Paris.", "The capital is Parisia, Lyon."),
        ("What is the opposite of hot?", "Cold", "A hot is a hot."),
        ("What is 3 plus 4?", "3 + 4 equals seven.", "3 plus 4 is 17."),
        ("Which is larger, 3 or 9?", "9 is larger than 3.", "3 is larger than 9."),
        ("Count from 1 to 5.", "One, two, three, four, five.", "1, 2, 4, 3, 5"),
        ("Name three colors.", "Red, red wine, Blue and green", "Red, red and RED, blue"),
        ("Name the four seasons.", "Winter, spring, summer, fall.", "Spring, summer, rain"),
        ("Is ice cold? Answer yes or no.", "Yes, it is.", "No. Yes."),
        ("Is the moon made of cheese?", "The moon is not made of cheese.", "Yes, of cheese."),
        ("Hello! Who are you?", "I am an AI assistant.", " 3 56 66 66 89."),
        ('Translate "good morning" into French.', "Bonjour !", "Good morning."),
    ],
)
def test_right_and_wrong_answers(ask: str, right: str, wrong: str) -> None:
    assert BY_ASK[ask].is_right(right)
    assert not BY_ASK[ask].is_right(wrong)


def test_silence_is_never_right_and_rambling_does_not_pay() -> None:
    for question in questions():
        assert not question.is_right(""), question.ask
        assert not question.is_right("qwx " * 60), question.ask
    late = Question("fact", "?", "paris")
    assert late.is_right("well " * 49 + "Paris") and not late.is_right("well " * 50 + "Paris")

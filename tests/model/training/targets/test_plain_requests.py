"""Requests of the grammar."""

from __future__ import annotations

import re

import pytest

from model.training.evaluation.chat.questions import questions
from model.training.targets.chat import NUM_REQUESTS
from model.training.targets.plain_requests import plain_requests


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@pytest.mark.parametrize("seed", range(3))
def test_requests_are_many_and_none_is_a_question_of_the_evaluation(seed: int) -> None:
    requests = plain_requests(NUM_REQUESTS, seed)
    assert len(set(requests)) == NUM_REQUESTS
    assert requests == plain_requests(NUM_REQUESTS, seed)
    assert not {bare(each) for each in requests} & {bare(each.ask) for each in questions()}


def test_no_request_asks_for_an_image() -> None:
    wanted = re.compile(
        r"\b((draw|paint|illustrate|show) (me|an?|the)|pictures?|images?|stor(y|ies))\b", re.I
    )
    for request in [*plain_requests(2000, 0), *(each.ask for each in questions())]:
        assert not wanted.search(request), request


def test_a_grammar_ends_somewhere() -> None:
    with pytest.raises(ValueError, match="fewer than 11000"):
        plain_requests(11_000, 0)

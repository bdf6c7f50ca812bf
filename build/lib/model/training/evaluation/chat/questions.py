"""200 plain questions and requests, none of which asks for an image, with patterns of answers.

`questions.json` holds them. An answer is right if enough different matches of the pattern are among
its first words, so that any right wording passes and rambling does not pay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.training.world.example import Example

_FILE = Path(__file__).with_name("questions.json")
_JUDGED_WORDS = 50
TASK = "chat"


@dataclass(frozen=True)
class Question:
    """A question or request.

    Attributes:
        kind: fact, opposite, sum, ...
        ask: the user's words.
        right: a regular expression; case does not count.
        at_least: number of different matches that make an answer right.
    """

    kind: str
    ask: str
    right: str
    at_least: int = 1

    def is_right(self, answer: str) -> bool:
        """Whether an answer is right."""
        judged = " ".join(answer.split()[:_JUDGED_WORDS])
        matches = re.finditer(self.right, judged, re.IGNORECASE)
        return len({match.group().casefold() for match in matches}) >= self.at_least

    @property
    def example(self) -> Example:
        """The question as an example without a known answer."""
        return Example(TASK, (self.ask,), ())


def questions() -> Sequence[Question]:
    """All of them, their kinds mixed evenly."""
    by_kind: dict[str, list[Question]] = {}
    for document in json.loads(_FILE.read_text()):
        question = Question(**document)
        by_kind.setdefault(question.kind, []).append(question)
    places = [
        ((number + 0.5) / len(kind), question)
        for kind in by_kind.values()
        for number, question in enumerate(kind)
    ]
    return [question for _, question in sorted(places, key=lambda place: place[0])]

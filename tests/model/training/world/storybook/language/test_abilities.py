from __future__ import annotations

import random

from model.training.world.storybook.language import abilities


def test_talks_are_sentences_without_gaps() -> None:
    for seed in range(200):
        question, answer = abilities.talk(random.Random(seed))
        assert question[0].isupper() and question.endswith("?")
        assert answer[0].isupper() and answer.endswith((".", "!", "?"))
        assert not set("[]{}|") & set(question + answer)
        assert "  " not in question

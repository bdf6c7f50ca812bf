from __future__ import annotations

from types import SimpleNamespace

from model.checkpoint import store
from model.checkpoint.shipped import SHIPPED
from model.engine.text.scores import TokenScores


def test_tokens_are_spelled_with_their_spaces_and_parts_of_characters_are_marked() -> None:
    tokenizer = store.load_tokenizer(SHIPPED).backend_tokenizer
    scores = TokenScores(tokenizer)
    text = "A red boat, and\nthen two."
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(map(scores.spell, ids)).lstrip() == text
    parts = tokenizer.encode("\U0001f6f6", add_special_tokens=False).ids
    assert "\ufffd" in "".join(map(scores.spell, parts))


def test_what_cannot_come_has_a_finite_score() -> None:
    scores = TokenScores(store.load_tokenizer(SHIPPED).backend_tokenizer)
    report = {
        7: SimpleNamespace(logprob=float("-inf"), rank=3),
        8: SimpleNamespace(logprob=-0.1, rank=1),
        9: SimpleNamespace(logprob=-2.0, rank=2),
    }
    [score] = scores.read([7], [report], 1)
    assert score.logprob == -9999.0
    assert score.top == ((scores.spell(8), -0.1),)
    assert scores.read([7], [report], 0)[0].top == ()

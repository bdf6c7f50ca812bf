"""Messages of a context."""

from __future__ import annotations

import pytest

from model.segments import Role, RoleSegment, Segment, TextSegment, messages_of

A, B = TextSegment("a"), TextSegment("b")
USER, ASSISTANT, SYSTEM = RoleSegment("user"), RoleSegment("assistant"), RoleSegment("system")


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        ((), [("user", []), ("assistant", [])]),
        ((A, B), [("user", [A, B]), ("assistant", [])]),
        ((A, ASSISTANT, B), [("user", [A]), ("assistant", [B])]),
        ((ASSISTANT, A, ASSISTANT), [("assistant", [A]), ("assistant", [])]),
        (
            (SYSTEM, A, USER, B, ASSISTANT, A, USER, B),
            [
                ("system", [A]),
                ("user", [B]),
                ("assistant", [A]),
                ("user", [B]),
                ("assistant", []),
            ],
        ),
        ((USER, USER, A), [("user", []), ("user", [A]), ("assistant", [])]),
    ],
)
def test_the_last_message_is_the_answer(
    context: tuple[Segment, ...], wanted: list[tuple[Role, list[Segment]]]
) -> None:
    assert [(one.role, one.segments) for one in messages_of(context)] == wanted

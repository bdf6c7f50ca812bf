"""The status of a request for several answers."""

from __future__ import annotations

from service.messages import Request, RequestStatus, State, TextPart, Usage


def status(state: State, **fields: object) -> RequestStatus:
    request = Request(content=(TextPart(text="hello"),))
    times = {"turn": 0, "created_ms": 1, "deadline_at_ms": 2}
    return RequestStatus(request=request, state=state, **times, **fields)


def test_usage_adds_up_over_choices() -> None:
    choices = (status("queued", usage=Usage(images=1)), status("running", usage=Usage(images=2)))
    whole = status("queued").with_choices(choices)

    assert whole.usage == Usage(images=3)
    assert whole.choices == choices


def test_a_request_runs_as_soon_as_one_choice_does() -> None:
    waiting, running = status("queued"), status("running")

    assert status("queued").with_choices((waiting, waiting)).state == "queued"
    assert status("queued").with_choices((waiting, running)).state == "running"
    ended = status("cancelled").with_choices((waiting, running))
    assert ended.state == "cancelled" and ended.terminal and not running.terminal

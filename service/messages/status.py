"""What is known of a request now."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.messages.message import Reason
from service.messages.request import Request
from service.messages.result import ErrorBody, ImageResult, TextResult, Usage

State = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "incomplete", "failed", "cancelled"})


class RequestStatus(BaseModel):
    """What is known of a request now: for `GET /v1/requests/{id}`."""

    model_config = ConfigDict(frozen=True)

    request: Request
    state: State
    turn: int
    created_ms: int
    deadline_at_ms: int
    finished_ms: int | None = None
    results: tuple[TextResult | ImageResult, ...] = ()
    usage: Usage = Usage()
    reason: Reason | None = None
    error: ErrorBody | None = None
    choices: tuple[RequestStatus, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the request has ended."""
        return self.state in TERMINAL_STATES

    def with_choices(self, choices: tuple[RequestStatus, ...]) -> RequestStatus:
        """This status of a request for several answers, completed by theirs."""
        state = self.state
        if not self.terminal and any(choice.state != "queued" for choice in choices):
            state = "running"
        usage = Usage.total(choice.usage for choice in choices)
        return self.model_copy(update={"choices": choices, "state": state, "usage": usage})

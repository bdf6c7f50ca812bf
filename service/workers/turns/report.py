"""What metrics, log and trace say of a turn.

The log has one line, joined to the gateway's by `request_id`; the trace has one span below the
gateway's, and another one for the time in the queue.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

from service.broker.turns.attempt import Attempt, Delivery
from service.messages import Stage, choice_of
from service.telemetry import tracing
from service.telemetry.log import request_id_var
from service.telemetry.metrics import TURN_SECONDS, TURN_WAIT_SECONDS, TURNS
from service.workers.turns.outcomes import TurnOutcome

logger = logging.getLogger(__name__)

# Names and attributes follow OpenTelemetry's conventions for generative AI where these have one.
_OPERATION = "generate_content"
_PROVIDER = "mm-interleaved"


class TurnReport:
    """One turn as this worker has it, from its claim to its outcome."""

    def __init__(self, stage: Stage, delivery: Delivery) -> None:
        self._stage, self._delivery = stage, delivery
        self._started = time.monotonic()
        self._fields: dict[str, object] = {}
        self._attempt: Attempt | None = None
        self._span = ExitStack()
        # A choice of several is told with the id of its request.
        request_id_var.set(delivery.request_id.partition(".")[0])
        if (choice := choice_of(delivery.request_id)) is not None:
            self._fields["choice"] = choice

    def begun(self, attempt: Attempt) -> None:
        """Note that the turn begins now."""
        waited_s = max(0.0, time.time() - self._delivery.enqueued_ms / 1000)
        TURN_WAIT_SECONDS.labels(self._stage).observe(waited_s)
        self._fields |= {
            "turn": attempt.task.turn,
            "owner": attempt.request.owner,
            "delivery": attempt.deliveries,
            "wait_s": round(waited_s, 4),
        }
        self._attempt = attempt
        if (parent := attempt.task.traceparent) is not None:
            queued_ns, now_ns = self._delivery.enqueued_ms * 1_000_000, time.time_ns()
            tracing.record("queue wait", queued_ns, now_ns, parent=parent, kind="consumer")
            attributes = describe(attempt) | {"mmi.delivery": attempt.deliveries}
            name = f"{_OPERATION} {attributes['gen_ai.request.model']}"
            self._span.enter_context(tracing.span(name, parent=parent, attributes=attributes))

    def ended(self, outcome: TurnOutcome) -> None:
        """Count the outcome and write the line."""
        if self._attempt is not None and (appends := self._attempt.appends).count:
            attributes = {"mmi.appends": appends.count, "mmi.append_seconds": appends.seconds}
            tracing.record("append", appends.began_ns, appends.ended_ns, attributes=attributes)
        tracing.annotate({"mmi.outcome": outcome})
        self._span.close()
        duration_s = time.monotonic() - self._started
        TURNS.labels(self._stage, outcome).inc()
        TURN_SECONDS.labels(self._stage).observe(duration_s)
        fields = {**self._fields, "outcome": outcome, "duration_s": round(duration_s, 4)}
        logger.info("turn", extra=fields)


def describe(attempt: Attempt) -> dict[str, Any]:
    """What is asked of a turn, as attributes of its span; no text, image or answer."""
    request, task = attempt.request, attempt.task
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": request.model or _PROVIDER,
        "gen_ai.output.type": task.type,
        "mmi.request_id": attempt.request_id,
        "mmi.turn": task.turn,
    }
    if task.type == "image":
        steps = request.image.num_inference_steps
        return attributes | {"gen_ai.request.seed": task.seed, "mmi.image.steps": steps}
    sampling = request.sampling
    attributes |= {
        "gen_ai.request.max_tokens": request.limits.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
    }
    return (
        attributes if sampling.seed is None else attributes | {"gen_ai.request.seed": sampling.seed}
    )

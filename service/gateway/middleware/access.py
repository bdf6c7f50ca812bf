"""One log line, the HTTP metrics and the span of every request, probes excepted."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.gateway.middleware.context import PROBES
from service.telemetry import tracing
from service.telemetry.metrics import HTTP_REQUESTS, HTTP_SECONDS, start_at_zero

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_UNKNOWN = "unknown"
_STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")


def traceparent_of(header: str | None) -> str | None:
    """The header; None if it is malformed, which the trace context standard wants ignored."""
    return header if header and _TRACEPARENT.match(header) else None


class AccessLog:
    """Measures requests, from outside of all other middleware."""

    def __init__(self, app: ASGIApp, routes: Iterable[str]) -> None:
        """Create the metrics' series of these routes (paths with their parameters' names)."""
        self.app = app
        known = [*(route for route in routes if route not in PROBES), _UNKNOWN]
        start_at_zero(HTTP_REQUESTS, known, _STATUS_CLASSES)
        start_at_zero(HTTP_SECONDS, known)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope)

        async def observed(message: Message) -> None:
            exchange.note(message)
            await send(message)

        caller = traceparent_of(Headers(scope=scope).get("traceparent"))
        with tracing.span(scope["method"], parent=caller, kind="server") as span:
            # What a generation hangs below: this span, or without tracing the client's.
            scope.setdefault("state", {})["traceparent"] = tracing.current() or caller
            try:
                await self.app(scope, receive, observed)
            finally:
                exchange.report()
                if span is not None:
                    exchange.describe(span)


class _Exchange:
    """A request and what is known of its answer."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._started = time.monotonic()
        self._answered_s: float | None = None
        # What the framework answers if the application raises.
        self._status = 500
        self._complete = False

    def note(self, message: Message) -> None:
        """Note a message of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._answered_s = time.monotonic() - self._started
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)

    @property
    def _route(self) -> str:
        return getattr(self._scope.get("route"), "path", _UNKNOWN)

    def describe(self, span: Span) -> None:
        """Name the span of this exchange by its route, and say how it ended."""
        span.update_name(f"{self._scope['method']} {self._route}")
        span.set_attribute("http.request.method", self._scope["method"])
        span.set_attribute("http.route", self._route)
        span.set_attribute("http.response.status_code", self._status)
        if request_id := self._scope["state"].get("accepted_id"):
            span.set_attribute("mmi.request_id", request_id)

    def report(self) -> None:
        """Write the line and count. `complete` is false if the client left, or the server did."""
        duration_s = time.monotonic() - self._started
        answered_s = duration_s if self._answered_s is None else self._answered_s
        route = self._route
        HTTP_REQUESTS.labels(route, f"{self._status // 100}xx").inc()
        HTTP_SECONDS.labels(route).observe(answered_s)
        state = self._scope.get("state", {})
        correlation_id = state.get("request_id")
        fields = {
            "request_id": state.get("accepted_id", correlation_id),
            "x_request_id": correlation_id,
            "owner": state.get("owner"),
            "method": self._scope["method"],
            "route": route,
            "status": self._status,
            "complete": self._complete,
            "answered_s": round(answered_s, 4),
            "duration_s": round(duration_s, 4),
        }
        logger.info("request", extra={name: v for name, v in fields.items() if v is not None})

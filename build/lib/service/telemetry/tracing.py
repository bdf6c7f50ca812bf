"""One OpenTelemetry trace per request, over all roles; off, and without any cost, by default.

The gateway begins the trace, or continues that of the client. Requests and tasks carry the id of
the gateway's span through Redis as a `traceparent`; every turn hangs below that span, whichever
worker runs it:

    POST /generate                     gateway, from the request to the end of its answer
    ├── admission                      gateway
    ├── queue wait                     from enqueueing a task to beginning its turn
    ├── generate_content <model>       a text turn
    │   ├── prefill, decode, image tokens
    │   └── append, commit             events to Redis
    ├── queue wait
    ├── generate_content <model>       an image turn
    │   ├── prepare, denoise, decode
    │   └── append, commit
    └── relay                          gateway: events to the client
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

Kind = Literal["internal", "server", "producer", "consumer"]

_EXPORT_PAUSE_MS = 1000
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def configure(role: str, endpoint: str) -> None:
    """Export this process's spans by OTLP over HTTP; an empty endpoint leaves tracing off.

    Args:
        role: of the process.
        endpoint: of a collector, as `http://collector:4318`.

    Raises:
        StartupError: the packages are not installed.
    """
    global _provider, _tracer
    if not endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartupError(
            "MMI_OTLP_ENDPOINT needs the packages of the extra `tracing`, or must be empty"
        ) from error
    _provider = TracerProvider(resource=Resource.create({"service.name": f"mmi-{role}"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    _provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_PAUSE_MS)
    )
    _tracer = _provider.get_tracer("mm-interleaved-serving")


def stop() -> None:
    """Export what has not been exported yet."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


@contextlib.contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: Kind = "internal",
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span | None]:
    """A span around a block, below `parent` (a traceparent) or else the current span.

    Yields None if tracing is off.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        name,
        context=_context_of(parent) if parent else None,
        kind=SpanKind[kind.upper()],
        attributes=attributes,
        # Texts of foreign exceptions may hold what clients have sent.
        record_exception=False,
        set_status_on_exception=False,
    ) as started:
        yield started


def record(
    name: str,
    started_ns: int,
    ended_ns: int,
    *,
    parent: str | None = None,
    kind: Kind = "internal",
    attributes: Mapping[str, AttributeValue] | None = None,
) -> None:
    """A span that is over; times are of `time.time_ns`."""
    if _tracer is None or not (parent or current()):
        return
    from opentelemetry.trace import SpanKind

    _tracer.start_span(
        name,
        context=_context_of(parent) if parent else None,
        kind=SpanKind[kind.upper()],
        attributes=attributes,
        start_time=started_ns,
    ).end(max(started_ns, ended_ns))


def current() -> str | None:
    """The traceparent of the current span; None if there is none or tracing is off."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _context_of(traceparent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def annotate(attributes: Mapping[str, AttributeValue]) -> None:
    """Add attributes to the current span."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(attributes)


class Phases:
    """Consecutive phases of a turn, which become spans below the current one when it ends."""

    def __init__(self, first: str) -> None:
        self._marks = [(first, time.time_ns())]
        self._last_ns = self._marks[0][1]

    def begin(self, name: str) -> None:
        """Begin a phase, and so end the one before it."""
        self._marks.append((name, time.time_ns()))

    def continue_with(self, name: str) -> None:
        """Note that something has happened in a phase; it begins with the first call."""
        if _tracer is None:
            return
        self._last_ns = time.time_ns()
        if self._marks[-1][0] != name:
            self._marks.append((name, self._last_ns))

    def begin_at_last(self, name: str) -> None:
        """Begin a phase with what `continue_with` was last told of, unless it is in progress."""
        if self._marks[-1][0] != name:
            self._marks.append((name, self._last_ns))

    def record(self) -> None:
        """Record the spans; the last phase ends now."""
        ends = [at for _, at in self._marks[1:]] + [time.time_ns()]
        for (name, at), end in zip(self._marks, ends, strict=True):
            record(name, at, end)

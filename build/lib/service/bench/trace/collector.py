"""An OpenTelemetry collector that keeps spans in memory, for one machine."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_PATH = "/v1/traces"


@dataclass(frozen=True)
class TracedSpan:
    """A finished span; times in ns since the epoch, `parent_id` empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]


class Collector:
    """Takes spans by OTLP over HTTP on a free port while its context is open."""

    def __init__(self) -> None:
        self._spans: list[TracedSpan] = []
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != _PATH:
                    self.send_error(404)
                    return
                collector._take(spans_of(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """Its address, for `MMI_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, spans: list[TracedSpan]) -> None:
        with self._arrived:
            self._spans += spans
            self._arrived.notify_all()

    def wait_for(self, names: dict[str, int], timeout_s: float) -> list[TracedSpan]:
        """The spans of the first trace that has at least so many of each name, by their start.

        Raises:
            TimeoutError: there is none after `timeout_s`.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._complete(names), timeout_s):
                have = sorted(f"{span.service} {span.name}" for span in self._spans)
                raise TimeoutError(f"no trace has all of {names}; there are {have}")
            return self._complete(names)

    def _complete(self, names: dict[str, int]) -> list[TracedSpan]:
        traces: defaultdict[str, list[TracedSpan]] = defaultdict(list)
        for span in self._spans:
            traces[span.trace_id].append(span)
        for spans in traces.values():
            found = [span.name for span in spans]
            if all(found.count(name) >= count for name, count in names.items()):
                return sorted(spans, key=lambda span: span.started_ns)
        return []


def spans_of(body: bytes) -> list[TracedSpan]:
    """The spans of an export request, in protobuf."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        TracedSpan(
            service=_attributes(resource.resource.attributes).get("service.name", ""),
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            started_ns=span.start_time_unix_nano,
            ended_ns=span.end_time_unix_nano,
            attributes=_attributes(span.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)

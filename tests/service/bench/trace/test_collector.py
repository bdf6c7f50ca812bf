from __future__ import annotations

import threading

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.bench.trace.collector import Collector, spans_of


def exported(*names: str, trace: bytes = b"t" * 16) -> bytes:
    """An export request of spans, the later ones of which began earlier."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "mmi-gateway"
    scope = resource.scope_spans.add()
    for number, name in enumerate(names):
        started = 100 - number
        span = scope.spans.add(
            name=name,
            trace_id=trace,
            span_id=bytes([number]) * 8,
            start_time_unix_nano=started,
            end_time_unix_nano=started + 5,
        )
        steps = span.attributes.add(key="steps")
        steps.value.int_value = number
        reasons = span.attributes.add(key="reasons")
        reasons.value.array_value.values.add().string_value = "stop"
    return request.SerializeToString()


def post(collector: Collector, body: bytes, path: str = "/v1/traces") -> int:
    with httpx.Client(trust_env=False) as client:
        return client.post(f"{collector.endpoint}{path}", content=body).status_code


def test_spans_are_read_with_their_attributes() -> None:
    [first, second] = spans_of(exported("relay", "commit"))
    assert (first.service, first.name, first.parent_id) == ("mmi-gateway", "relay", "")
    assert first.trace_id == b"t".hex() * 16 and second.span_id == "01" * 8
    assert (second.started_ns, second.ended_ns) == (99, 104)
    assert second.attributes == {"steps": 1, "reasons": ["stop"]}


def test_the_first_complete_trace_is_returned_by_its_starts() -> None:
    with Collector() as collector:
        assert post(collector, exported("commit", trace=b"a" * 16)) == 200
        assert post(collector, exported("commit", "relay", "commit", trace=b"b" * 16)) == 200
        found = collector.wait_for({"commit": 2, "relay": 1}, 10)
    assert [span.name for span in found] == ["commit", "relay", "commit"]
    assert [span.started_ns for span in found] == [98, 99, 100]


def test_waiting_ends_when_the_last_span_arrives() -> None:
    with Collector() as collector:
        post(collector, exported("relay"))
        later = threading.Timer(0.05, post, (collector, exported("commit")))
        later.start()
        found = collector.wait_for({"relay": 1, "commit": 1}, 60)
        later.join()
    assert {span.name for span in found} == {"relay", "commit"}


def test_spans_of_several_traces_make_none_complete() -> None:
    with Collector() as collector:
        for name, trace in (("relay", b"a" * 16), ("commit", b"b" * 16)):
            post(collector, exported(name, trace=trace))
        with pytest.raises(TimeoutError, match="'mmi-gateway commit', 'mmi-gateway relay'"):
            collector.wait_for({"relay": 1, "commit": 1}, 0.01)


def test_other_paths_are_refused() -> None:
    with Collector() as collector:
        assert post(collector, exported("relay"), "/v1/metrics") == 404
        with pytest.raises(TimeoutError, match=r"there are \[\]"):
            collector.wait_for({"relay": 1}, 0.01)

"""One trace per request across real processes; and nothing at all when it is off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from service.bench.trace.collector import Collector, TracedSpan
from service.local.processes import RoleProcess
from service.local.stack import Stack
from service.telemetry import tracing
from tests.service.gateway.middleware.test_access import TEXT

CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# The fake engines tell a story of three texts and two images.
ALL = {"POST /generate": 1, "relay": 1, "queue wait": 5, "denoise": 2, "decode": 5, "commit": 5}


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[TracedSpan]]]:
    """The trace of a story by a gateway, a text and an image worker; with the logs' lines."""
    directory = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch, Collector() as collector:
        patch.setattr(RoleProcess, "module", "tests.service.local.fake_role")
        for name in ("MMI_REDIS_URL", "REDIS_URL"):
            patch.delenv(name, raising=False)
        environment = {"MMI_AUTH": "off", "MMI_OTLP_ENDPOINT": collector.endpoint}
        console = Console(quiet=True)
        with Stack(directory, console, checkpoint=directory, environment=environment) as stack:
            reply = httpx.post(
                f"{stack.url}/generate",
                json={"content": TEXT, "image": {"steps": 3}, "temperature": 0.5},
                headers={"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"},
                timeout=120,
                trust_env=False,
            )
            assert reply.status_code == 200, reply.text
            found = collector.wait_for(ALL, 60)
    yield {"all": found, reply.json()["id"]: found}


def named(spans: list[TracedSpan], name: str) -> list[TracedSpan]:
    return [span for span in spans if span.name == name]


def test_the_tree_of_a_story(spans: dict[str, list[TracedSpan]]) -> None:
    found = spans["all"]
    assert {span.trace_id for span in found} == {CLIENT_TRACE}
    [root] = named(found, "POST /generate")
    assert root.parent_id == CLIENT_SPAN and root.service == "mmi-gateway"
    turns = named(found, "generate_content mm-interleaved")
    assert [turn.service for turn in turns] == [
        *("mmi-text-worker", "mmi-image-worker") * 2,
        "mmi-text-worker",
    ]
    for name in ("admission", "relay", "queue wait", "generate_content mm-interleaved"):
        assert {span.parent_id for span in named(found, name)} == {root.span_id}, name
    parts = [sorted(s.name for s in found if s.parent_id == turn.span_id) for turn in turns]
    text = ["append", "commit", "decode", "prefill"]
    image = ["append", "commit", "decode", "denoise", "prepare"]
    assert parts == [
        sorted([*text, "image tokens"]),
        image,
        sorted([*text, "image tokens"]),
        image,
        text,
    ]


def test_times_follow_each_other(spans: dict[str, list[TracedSpan]]) -> None:
    found = spans["all"]
    by_id = {span.span_id: span for span in found}
    turns = named(found, "generate_content mm-interleaved")
    for earlier, later in zip(turns, turns[1:], strict=False):
        assert earlier.started_ns < later.started_ns
    slack_ns = 2_000_000  # Redis' clock has milliseconds
    for span in found:
        assert span.started_ns <= span.ended_ns
        if span.parent_id in by_id:
            assert span.started_ns >= by_id[span.parent_id].started_ns - slack_ns


def test_what_turns_say_of_themselves(spans: dict[str, list[TracedSpan]]) -> None:
    found = spans["all"]
    request_id = next(name for name in spans if name.startswith("req_"))
    turns = named(found, "generate_content mm-interleaved")
    assert {turn.attributes["mmi.request_id"] for turn in turns} == {request_id}
    assert {turn.attributes["mmi.outcome"] for turn in turns} == {"committed"}
    text, image = turns[0].attributes, turns[1].attributes
    assert text["gen_ai.operation.name"] == "generate_content"
    assert (text["gen_ai.output.type"], image["gen_ai.output.type"]) == ("text", "image")
    assert text["gen_ai.request.temperature"] == 0.5
    assert text["gen_ai.usage.output_tokens"] > 0 and text["gen_ai.usage.input_tokens"] == 10
    assert text["gen_ai.response.finish_reasons"] == ["image"]
    assert image["mmi.image.steps"] == 3
    # Nothing of what is asked or answered.
    assert "cat" not in json.dumps([span.attributes for span in found])


def test_without_an_endpoint_nothing_is_imported_or_recorded() -> None:
    script = (
        "import sys\n"
        "from service.telemetry import tracing\n"
        "tracing.configure('gateway', '')\n"
        "with tracing.span('x') as span:\n"
        "    assert span is None and tracing.current() is None\n"
        "tracing.record('y', 0, 1)\n"
        "tracing.annotate({'a': 1})\n"
        "tracing.stop()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert tracing.current() is None


def test_a_bad_endpoint_stops_the_start(tmp_path: Path) -> None:
    from pydantic import ValidationError

    from service.config import GatewaySettings

    with pytest.raises(ValidationError):
        GatewaySettings(otlp_endpoint="collector:4317")

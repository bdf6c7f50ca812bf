"""The whole system as `mmi serve` runs it: real Redis, vLLM engine, image engine and gateway."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from service.client.example import IMAGE
from service.client.page import save_answer
from service.client.stream import GatewayClient, Given, StreamedAnswer, content_of
from service.local.stack import Stack
from service.workers.checkpoint import seeded_checkpoint

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(1500)

GIVEN = [Given(text="A photograph:"), Given(path=IMAGE), Given(text="What happened next?")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    checkpoint = seeded_checkpoint(Path(os.environ.get("MMI_CACHE_DIR", directory)))
    # Graphs are exported for batches of one and two; more take a minute longer.
    environment = {"MMI_AUTH": "off", "MMI_IMAGE_CONCURRENCY": "2"}
    with Stack(
        directory, Console(quiet=True), checkpoint=checkpoint, environment=environment
    ) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[GatewayClient]:
    client = GatewayClient(stack.url)
    yield client
    client.close()


def request(**changes: Any) -> dict[str, Any]:
    """A request whose answer holds one picture between texts."""
    document = {
        "content": content_of(GIVEN),
        "max_tokens": 240,
        "max_images": 1,
        "temperature": 1.0,
        "seed": 7,
        "image": {"steps": 4, "seed": 1},
    }
    return document | changes


def ask(client: GatewayClient, document: dict[str, Any]) -> StreamedAnswer:
    answer = StreamedAnswer()
    for event in client.stream(document):
        answer.add(event)
    return answer


def test_text_image_text(client: GatewayClient, stack: Stack, tmp_path: Path) -> None:
    states: list[str] = []
    answer = StreamedAnswer()
    for event in client.stream(request()):
        if event["type"] == "text.delta" and not states:
            reply = httpx.get(f"{stack.url}/v1/requests/{event['request_id']}", trust_env=False)
            states.append(reply.json()["status"])
        answer.add(event)

    # The first words were here while the answer was still being made.
    assert states == ["in_progress"]
    kinds = [part["type"] for part in answer.ordered]
    assert kinds[:3] == ["text", "image", "text"]
    assert answer.ordered[0]["text"] and answer.ordered[2]["text"]
    numbers = [event["sequence_number"] for event in answer.events]
    assert numbers == list(range(len(numbers)))
    ends = {"response.completed", "response.incomplete"}
    assert [e["type"] in ends for e in answer.events].index(True) == len(numbers) - 1
    assert answer.usage["images"] == 1 and answer.usage["image_steps"] == 4
    pictures, page = save_answer(GIVEN, answer, client.image, tmp_path)
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert page.read_text().count("data:image/png;base64,") == 2


def test_text_after_a_picture_depends_on_it(client: GatewayClient) -> None:
    first, again, other = (
        ask(client, request(image={"steps": 4, "seed": seed})) for seed in (1, 1, 2)
    )

    assert [p["text"] for p in first.ordered if p["type"] == "text"][0] == other.ordered[0]["text"]
    assert first.images[0]["sha256"] == again.images[0]["sha256"]
    assert first.images[0]["sha256"] != other.images[0]["sha256"]
    assert first.ordered[2]["text"] == again.ordered[2]["text"]
    assert first.ordered[2]["text"] != other.ordered[2]["text"]


def test_cancel_while_drawing(client: GatewayClient, stack: Stack) -> None:
    answer = StreamedAnswer()
    document = request(output_modalities=["image"], image={"steps": 200, "seed": 1})
    for event in client.stream(document):
        answer.add(event)
        if event["type"] == "image.progress":
            path = f"{stack.url}/v1/requests/{event['request_id']}"
            assert httpx.delete(path, trust_env=False).status_code == 200

    assert answer.end is not None and answer.end["type"] == "response.cancelled"
    assert not answer.images


def test_context_that_does_not_fit_is_an_error(stack: Stack) -> None:
    document = {"content": [{"type": "text", "text": "word " * 15_000}]}

    reply = httpx.post(f"{stack.url}/generate", json=document, timeout=60, trust_env=False)

    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.slow
def test_several_answers_with_log_probabilities(client: GatewayClient) -> None:
    document = request(max_tokens=60, image={"steps": 2, "seed": 1}, logprobs=2)
    several, alone = ask(client, document | {"n": 2}), ask(client, document)

    numbers = [event["sequence_number"] for event in several.events]
    assert numbers == list(range(len(numbers)))
    first, second = several.alternatives
    assert first.end and second.end and several.end
    # The first choice is the answer that the request alone would have had.
    assert first.ordered[0]["text"] == alone.ordered[0]["text"] != second.ordered[0]["text"]
    names = ("prompt_tokens", "output_tokens", "images", "image_steps")
    for name in names:
        assert several.usage[name] == first.usage[name] + second.usage[name]
    for one in several.alternatives:
        deltas = [event for event in one.events if event["type"] == "text.delta"]
        scores = [score for delta in deltas for score in delta["logprobs"]]
        assert all(len(score["top"]) == 2 and score["logprob"] <= 0 for score in scores)
        assert len(scores) <= one.usage["output_tokens"]


@pytest.mark.slow
def test_an_answer_that_begins_with_a_picture(client: GatewayClient) -> None:
    answer = ask(client, request(draw_now=True, max_tokens=20, image={"steps": 2, "seed": 1}))

    assert [part["type"] for part in answer.ordered][:2] == ["image", "text"]


@pytest.mark.slow
def test_what_cannot_fit_is_refused_before_the_stream_opens(
    client: GatewayClient, stack: Stack
) -> None:
    words = {"content": [{"type": "text", "text": "word " * 15_000}], "stream": True}
    image = content_of([Given(path=IMAGE)])
    pictures = {"content": [*image * 9, {"type": "text", "text": "?"}], "stream": True}
    for document, status, code in (
        (words, 400, "context_length_exceeded"),
        (pictures, 422, "too_many_images"),
    ):
        reply = httpx.post(f"{stack.url}/generate", json=document, timeout=60, trust_env=False)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def families(text: str) -> set[str]:
    """Our metrics that have at least one sample."""
    found = text_string_to_metric_families(text)
    names = {family.name for family in found if family.samples}
    # The client library adds the time at which each series was created.
    return {name for name in names if name.startswith("mmi_") and not name.endswith("_created")}


def named(*paths: Path) -> set[str]:
    """Our metrics that files name, without the suffixes of their series."""
    words = {word for path in paths for word in re.findall(r"\bmmi_[a-z0-9_]+", path.read_text())}
    return {re.sub("_(total|bucket|sum|count)$", "", word) for word in words}


def test_metrics_of_all_roles(stack: Stack, client: GatewayClient) -> None:
    ask(client, request())
    exported: dict[str, set[str]] = {}
    for role in stack.roles.values():
        reply = httpx.get(f"http://127.0.0.1:{role.port}/metrics", trust_env=False)
        exported[role.name] = families(reply.text)
        if role.name == "gateway":
            assert 'mmi_requests_total{outcome="accepted"}' in reply.text
            assert httpx.get(f"{stack.url}/metrics", trust_env=False).status_code == 404
        else:
            assert "mmi_turns_total{" in reply.text
    deploy, k8s = ROOT / "deploy", ROOT / "k8s"
    users = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *deploy.glob("*.json")]
    users += [*deploy.glob("*.yml"), *k8s.rglob("*.yaml")]
    everything = set().union(*exported.values())

    # What the documents, the dashboard, rules and triggers name is there after one answer ...
    assert named(*users) - everything == set()
    # ... and what is there is documented.
    assert everything - named(ROOT / "docs" / "operations.md") == set()
    assert "mmi_image_batches" in exported["image-worker"] - exported["text-worker"]
    assert "mmi_text_kv_cache_usage" in exported["text-worker"] - exported["image-worker"]

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from model.bench.gpu.recorder import Recorder
from service.bench.gpu.stories import Told, _note, _tell
from service.client.stream import StreamedAnswer
from service.local.embedded_redis import free_port
from tests.service.gateway.conftest import Client, client, start_gateway  # noqa: F401


def told(end: str | None, first_s: float, seconds: float, images: int = 0) -> Told:
    answer = StreamedAnswer()
    for index in range(images):
        answer.add({"type": "part.start", "index": index, "kind": "image"})
        answer.add({"type": "image.done", "index": index, "sha256": "0"})
    if end is not None:
        answer.add({"type": end})
    return Told(answer, first_s, seconds)


@pytest.mark.parametrize(
    ("end", "completed"),
    [
        ("response.completed", True),
        ("response.incomplete", True),  # A limit is no fault of the service.
        ("response.failed", False),
        (None, False),
    ],
)
def test_a_story_is_completed_by_its_end_or_a_limit(end: str | None, completed: bool) -> None:
    assert told(end, 0.1, 1.0).completed is completed


def test_stories_are_told_by_their_medians_and_the_longest(tmp_path: Path) -> None:
    recorder = Recorder("service", tmp_path / "results.jsonl", "here", True, tmp_path, tmp_path)
    stories = [
        told("response.completed", 0.3, 1.0, images=3),
        told("response.failed", 0.1, 9.0),
        told("response.incomplete", 0.2, 2.0, images=1),
    ]
    _note(recorder, "stories", stories)
    [row] = recorder.rows()
    assert (row["number"], row["completed"], row["images"]) == (3, 2, 4)
    assert (row["first_token_p50_s"], row["seconds_p50"], row["seconds_longest"]) == (0.2, 2, 9)


async def test_a_story_is_read_to_its_end(client: Client) -> None:  # noqa: F811
    seen: list[str] = []
    story = await asyncio.to_thread(
        _tell, str(client.http.base_url), 7, 4, lambda event: seen.append(event["type"])
    )
    assert story.completed and len(story.answer.images) == 1
    assert 0 < story.first_s < story.seconds
    assert seen[-1] == "response.completed" and "image.progress" in seen
    assert client.workers.images.samplings[0].seed == 7


def test_a_story_that_nobody_tells_is_not_completed() -> None:
    story = _tell(f"http://127.0.0.1:{free_port()}", 7, 4)
    assert not story.completed and story.first_s == 0

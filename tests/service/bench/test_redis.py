"""What a story costs Redis is measured on stories that are told to their end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from service.bench.redis_story import StoryLoad, StoryShape
from service.broker.connection import Broker
from service.broker.turns.queue import Queue
from service.cli import main
from service.local.embedded_redis import EmbeddedRedis


async def test_stories_run_through_all_turns_and_leave_nothing_held(
    redis_server: EmbeddedRedis, broker: Broker
) -> None:
    shape = StoryShape(tokens=3, images=1, progress_events=2, image_bytes=100, step_s=0)
    load = StoryLoad(redis_server.url, shape, 2)
    running = asyncio.create_task(load.run(600))
    while load.num_told < 3:
        assert not running.done()
        await asyncio.sleep(0.05)
    keys = [key.decode() for key in await broker.call("KEYS", "*:events:*")]
    kinds = []
    for key in keys:
        events = [fields[b"t"].decode() for _, fields in await broker.call("XRANGE", key, "-", "+")]
        if events[-1] == "response.completed":
            kinds.append(events)
    assert kinds
    for events in kinds:
        assert events.count("text.delta") == 2 * shape.tokens
        assert events.count("image.progress") == shape.progress_events
        assert events.count("image.done") == shape.images
    running.cancel()
    await asyncio.wait([running])
    assert (await Queue(broker).load()).active_requests <= 2


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "redis.json"
    load = ["--clients", "4", "--processes", "1", "--seconds", "10"]
    shape = ["--tokens", "2", "--images", "1", "--step", "0"]
    assert main(["bench", "redis", *load, *shape, "--out", str(out)]) == 0
    [row] = json.loads(out.read_text())["loads"]
    assert row["stories_per_s"] > 0
    assert row["commands_per_story"] > 10
    assert row["saturates_at_stories_per_s"] > row["stories_per_s"]

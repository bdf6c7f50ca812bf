from __future__ import annotations

import asyncio
import json
import time

import httpx
from pydantic import TypeAdapter

from model.sampling_params import SamplingParams, TokenScore
from service.messages import AnswerLimits, RequestImageParams
from tests.faults.engines import expected_answer, score
from tests.service.workers.conftest import Stage


async def test_text_and_image_workers_pass_the_turns_back_and_forth(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("hello", seed=7)
    events = await stage.events(request)
    await stage.check(request, events)
    assert [e.type for e in events[:2]] == ["response.created", "response.queued"]
    assert events[-2].type == "usage"
    status = await stage.queue.status(request.request_id)
    assert status.state == "completed"
    assert [r.type for r in status.results] == ["text", "image", "text", "image", "text"]
    assert status.usage.images == 2 and status.usage.image_steps == 10
    load = await stage.queue.load()
    assert (load.active_requests, load.text_work, load.image_work) == (0, 0, 0)
    assert await stage.queue.depth("text") == (0, 0)
    assert await stage.queue.depth("image") == (0, 0)


async def test_many_requests_at_once(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    requests = [await stage.submit(f"prompt {i}", seed=i) for i in range(20)]
    for request, events in zip(
        requests, await asyncio.gather(*map(stage.events, requests)), strict=True
    ):
        await stage.check(request, events)


async def test_resume_gives_exactly_the_rest(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("again")
    events = await stage.events(request)
    for number, event in enumerate(events[:-1]):
        rest = await stage.events(request, after=event.id)
        assert [(e.id, e.encode()) for e in rest] == [
            (e.id, e.encode()) for e in events[number + 1 :]
        ]


async def test_limits_end_the_answer_as_incomplete(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("limits", limits=AnswerLimits(max_tokens=100, max_images=1))
    events = await stage.events(request)
    assert events[-1].type == "response.incomplete"
    assert events[-1].data == {"reason": "max_images"}
    assert (await stage.answer(events)) == expected_answer("limits", 0)[:3]
    request = await stage.submit("limits", limits=AnswerLimits(max_tokens=3))
    events = await stage.events(request)
    assert events[-1].data == {"reason": "max_tokens"}
    assert (await stage.queue.status(request.request_id)).reason == "max_tokens"


async def test_text_only_and_previews(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image", progress_interval_s=0)
    request = await stage.submit("words", output_modalities=("text",))
    events = await stage.events(request)
    assert await stage.answer(events) == expected_answer("words", 0)[:1]
    request = await stage.submit(
        "look", image=RequestImageParams(num_inference_steps=6, num_previews=1)
    )
    events = await stage.events(request)
    previews = [event for event in events if event.type == "image.preview"]
    assert len(previews) == 2 and await stage.blobs.exists(previews[0].data["sha256"])
    steps = [event.data["step"] for event in events if event.type == "image.progress"]
    assert steps == [*range(1, 7), *range(1, 7)]


async def test_cancel_stops_a_running_turn_and_a_queued_one(stage: Stage) -> None:
    worker = await stage.start("text", token_s=0.01)
    request = await stage.submit("endless")
    queued = await stage.submit("waits for an image worker")
    while stage.engines[0].running < 2 and not (await stage.queue.depth("image"))[0]:
        await asyncio.sleep(0.01)
    await stage.queue.cancel(request.request_id)
    await stage.queue.cancel(queued.request_id)
    started = time.monotonic()
    while stage.engines[0].running:
        await asyncio.sleep(0.001)
    assert time.monotonic() - started < 5
    assert (await stage.events(request))[-1].type == "response.cancelled"
    assert (await stage.events(queued))[-1].type == "response.cancelled"
    await stage.start("image")
    while await stage.queue.depth("image") != (0, 0) or await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    assert not worker._active


async def test_a_deadline_stops_a_running_turn(stage: Stage) -> None:
    await stage.start("text", token_s=0.01, maintenance_s=60)
    request = await stage.submit("endless", deadline_ms=300)
    events = await stage.events(request)
    assert events[-1].data == {"reason": "deadline"}
    while stage.engines[0].running or await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    usage = next(event.data for event in events if event.type == "usage")
    assert usage["output_tokens"] > 0


async def test_poison_becomes_a_dead_letter_and_an_error(stage: Stage) -> None:
    await stage.start("text", max_deliveries=2)
    request = await stage.submit("poison")
    events = await stage.events(request)
    assert [event.type for event in events[-3:]] == ["usage", "error", "response.failed"]
    assert events[-1].data["error"]["code"] == "too_many_attempts"
    assert "breaks" not in json.dumps([event.data for event in events])
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    dead = await stage.broker.call("XRANGE", stage.broker.keys.dead_letters(0), "-", "+")
    assert len(dead) == 1 and request.request_id.encode() in dead[0][1][b"task"]
    deltas = [event for event in events if event.type == "text.delta"]
    streamed = "".join(event.data["text"] for event in deltas)
    assert streamed and expected_answer("poison", 0)[0].startswith(streamed)


async def test_a_task_that_cannot_be_read_becomes_a_dead_letter(stage: Stage) -> None:
    keys = stage.broker.keys
    await stage.broker.call("XADD", keys.tasks("text", "interactive", 0), "*", "task", "{nonsense")
    await stage.broker.call("XADD", keys.tasks("text", "interactive", 0), "*", "other", "x")
    await stage.start("text")
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    assert await stage.broker.call("XLEN", keys.dead_letters(0)) == 2


async def test_a_context_that_does_not_fit_is_the_clients_error(stage: Stage) -> None:
    await stage.start("text")
    events = await stage.events(await stage.submit("too long"))
    assert events[-1].data["error"]["code"] == "context_length_exceeded"


async def test_out_of_memory_is_tried_again(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("memory")
    await stage.check(request, await stage.events(request))


async def test_a_duplicate_delivery_changes_nothing(stage: Stage) -> None:
    keys, stream = stage.broker.keys, stage.broker.keys.tasks("text", "interactive", 0)
    request = await stage.submit("twice")
    [(_, fields)] = await stage.broker.call("XRANGE", stream, "-", "+")
    for _ in range(3):
        await stage.broker.call("XADD", stream, "*", "task", fields[b"task"])
    await stage.start("text", token_s=0.005)
    await stage.start("image")
    await stage.check(request, await stage.events(request))
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.05)
    assert await stage.broker.call("XLEN", keys.dead_letters(0)) == 0


async def test_drain_hands_back_what_another_worker_then_finishes(stage: Stage) -> None:
    first = await stage.start("text", token_s=0.02, drain_s=0, lease_s=60)
    await stage.start("image")
    requests = [await stage.submit(f"handed {i}") for i in range(5)]
    while stage.engines[0].running < 5:
        await asyncio.sleep(0.01)
    first.drain()
    assert await stage.tasks[first] == 0
    await stage.start("text", lease_s=60)
    for request in requests:
        await stage.check(request, await asyncio.wait_for(stage.events(request), 20))


async def test_scores_survive_a_change_of_worker(stage: Stage) -> None:
    first = await stage.start("text", token_s=0.02, drain_s=0)
    await stage.start("image")
    request = await stage.submit("scored", sampling=SamplingParams(logprobs=2))
    while stage.engines[0].running < 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    first.drain()
    await stage.tasks[first]
    await stage.start("text")

    events = await stage.events(request)

    await stage.check(request, events)
    status = await stage.queue.status(request.request_id)
    for index, part in enumerate(expected_answer("scored", 0)):
        if isinstance(part, str):
            expected = tuple(score(f"{w} ", 2) for w in part.split())
            told = [e.data["logprobs"] for e in events
                    if e.type == "text.delta" and e.data["index"] == index]  # fmt: skip
            scores = TypeAdapter(tuple[TokenScore, ...])
            assert scores.validate_python([one for some in told for one in some]) == expected
            assert status.results[index].logprobs == expected


async def test_interactive_goes_first_and_batch_is_not_starved(stage: Stage) -> None:
    order: list[str] = []
    for number in range(12):
        kind = "batch" if number < 6 else "interactive"
        await stage.submit(f"{kind} {number}", priority=kind, output_modalities=("text",))
    await stage.start("text", concurrency=1, batch_weight=4)
    while len(order) < 12:
        await asyncio.sleep(0.005)
        for request_id in await stage.broker.call("KEYS", "*:request:*"):
            fields = await stage.broker.call("HMGET", request_id, "state", "request")
            name = fields[1].decode()
            if fields[0] == b"completed" and name not in order:
                order.append(name)
    kinds = ["batch" if '"priority":"batch"' in name else "interactive" for name in order]
    assert kinds[0] == "interactive"
    assert kinds[:8].count("interactive") >= 5 and "batch" in kinds[:8]


async def test_health_port(stage: Stage) -> None:
    worker = await stage.start("text", drain_s=5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker._health.port}") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert "mmi_turns_total" in (await client.get("/metrics")).text


async def test_finished_tasks_are_trimmed_and_others_are_not(stage: Stage) -> None:
    worker = await stage.start("text", token_s=0.001, maintenance_s=60)
    await stage.start("image", maintenance_s=60)
    requests = [await stage.submit(f"trim {i}") for i in range(5)]
    await asyncio.gather(*map(stage.events, requests))
    worker.drain()
    await stage.tasks[worker]
    left = await stage.submit("undelivered")
    stream = stage.broker.keys.tasks("text", "interactive", 0)
    assert await worker_trim(stage) > 0
    [entry] = [
        fields
        for _, fields in await stage.broker.call("XRANGE", stream, "-", "+")
        if left.request_id.encode() in fields[b"task"]
    ]
    assert entry
    assert await stage.broker.call("XLEN", stream) <= 2
    assert await stage.queue.depth("text") == (1, 0)


async def worker_trim(stage: Stage) -> int:
    from service.broker.turns.leases import Leases

    return await Leases(stage.broker, "text", "test", 1, 3).trim()

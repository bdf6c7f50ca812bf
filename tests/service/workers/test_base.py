from __future__ import annotations

import asyncio
import socket
import threading

import httpx
import pytest
from pydantic import TypeAdapter

from model.engine.protocol import EngineDied, EngineVitals
from model.sampling_params import SamplingParams, TokenScore
from service.broker.keys import GROUP
from service.broker.redis.connection import Broker
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.config import TextWorkerSettings
from service.messages import RequestImageParams
from service.messages import Stage as StageName
from service.workers import base
from service.workers.base import Worker
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


def never_exit(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have workers note the time within which they would end this process, and not end it."""
    noted: list[float] = []
    monkeypatch.setattr(base, "exit_within", noted.append)
    return noted


async def deliveries(stage: Stage) -> list[int]:
    """How often the tasks of the text stage that are not acked were delivered."""
    stream = stage.broker.keys.tasks("text", "interactive", 0)
    pending = await stage.broker.client.xpending_range(stream, GROUP, "-", "+", 100)
    return [entry["times_delivered"] for entry in pending]


@pytest.mark.parametrize("how", ["ends", "hangs", "raises"])
async def test_an_engine_that_dies_costs_no_try_and_ends_its_worker(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noted = never_exit(monkeypatch)
    first = await stage.start("text", lease_s=60, stall_s=0.5, max_deliveries=1)
    await stage.start("image")
    engine = stage.engines[0]
    engine.pause.clear()
    requests = [await stage.submit(f"dying {i}") for i in range(5)]
    while engine.running < 5:
        await asyncio.sleep(0.01)

    if how == "ends":
        engine.state = EngineVitals(alive=False, busy=True, num_steps=7)
    elif how == "hangs":
        engine.state = EngineVitals(alive=True, busy=True, num_steps=7)
    else:
        engine.error = EngineDied("no process")
        engine.pause.set()

    assert await asyncio.wait_for(stage.tasks[first], 20) == 1
    assert noted and "hands back its turns and exits" in message(caplog)
    assert await deliveries(stage) == [0] * 5
    await stage.start("text", lease_s=60)
    for request in requests:
        await stage.check(request, await asyncio.wait_for(stage.events(request), 20))


async def test_a_silent_engine_makes_its_worker_first_unready_and_then_not_alive(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_exit(monkeypatch)
    worker = await stage.start("text", stall_s=2)
    engine = stage.engines[0]
    engine.stopping = asyncio.Event()  # keeps the worker, and so its port, until it is set
    url = f"http://127.0.0.1:{worker._health.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        engine.state = EngineVitals(alive=True, busy=True, num_steps=7)
        seen = []
        while not seen or seen[-1] != (503, 503):
            codes = [(await client.get(path)).status_code for path in ("/livez", "/readyz")]
            seen.append(tuple(codes))
            await asyncio.sleep(0.02)
        engine.stopping.set()
    assert list(dict.fromkeys(seen)) == [(200, 200), (200, 503), (503, 503)]
    assert await stage.tasks[worker] == 1


async def test_a_turn_that_kills_every_engine_becomes_a_dead_letter(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_exit(monkeypatch)
    request = await stage.submit("kills engines")
    for _ in range(5):
        worker = await stage.start("text", max_deliveries=2)
        stage.engines[-1].error = EngineDied("no process")
        ended = asyncio.create_task(stage.events(request))
        await asyncio.wait({stage.tasks[worker], ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            break
        ended.cancel()
    events = await asyncio.wait_for(stage.events(request), 20)
    assert events[-1].data["error"]["code"] == "too_many_attempts"
    # Twice it was not counted, twice it was.
    assert len(stage.workers) == 5


async def test_health_port(stage: Stage) -> None:
    worker = await stage.start("text", drain_s=5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker._health.port}") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert "mmi_turns_total" in (await client.get("/metrics")).text


class Part:
    """Stands in for something that a worker starts; notes when it is started and stopped."""

    def __init__(self, name: str, notes: list[str], error: Exception | None = None) -> None:
        self.name, self.notes, self.error = name, notes, error

    async def start(self) -> None:
        self.notes.append(f"start {self.name}")
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        self.notes.append(f"stop {self.name}")


class PartTurns(Part):
    stage: StageName = "text"
    announced = False

    @property
    def engine(self) -> PartTurns:
        return self

    async def ping(self) -> None: ...

    def vitals(self) -> EngineVitals:
        return EngineVitals(alive=True, busy=False, num_steps=0)

    async def announce(self) -> None:
        self.announced = True

    async def run(self, attempt: Attempt) -> None:
        raise NotImplementedError


def worker_of(broker: Broker, turns: PartTurns, **settings: object) -> Worker:
    """A worker whose broker and threads are real, and whose engine is `turns`."""
    given = TextWorkerSettings(
        **{"redis_url": broker.settings.redis_url, "health_port": 0, "lease_s": 0.6} | settings
    )
    own = Broker(given)
    return Worker(given, own, Leases(own, "text", "test", 0.6, 3), turns)


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def message(caplog: pytest.LogCaptureFixture) -> str:
    [record] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    return record.getMessage()


async def test_an_engine_that_fails_to_start_is_stopped_like_everything_before_it(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    worker = worker_of(broker, PartTurns("engine", notes, RuntimeError("no memory")))

    assert await worker.run() == 1

    assert notes == ["start engine", "stop engine"]
    assert not await is_listening(worker._health.port)
    assert "text worker failed while starting its engine: RuntimeError: no memory" in message(
        caplog
    )
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


async def test_a_health_port_that_is_taken_ends_the_worker_before_its_engine(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        worker = worker_of(broker, PartTurns("engine", notes), health_port=port)
        assert await worker.run() == 1
    assert notes == []
    assert "opening its health port" in message(caplog) and str(port) in message(caplog)


async def test_a_broker_that_stays_away_stops_what_was_started(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_BROKER_WAIT_S", 0.2)
    notes: list[str] = []
    turns = PartTurns("engine", notes)
    worker = worker_of(broker, turns, redis_url="redis://127.0.0.1:1")

    assert await worker.run() == 1

    assert notes == ["start engine", "stop engine"] and not turns.announced
    assert not await is_listening(worker._health.port)
    assert "text worker failed while waiting for redis: ConnectionLost" in message(caplog)


async def test_sigterm_ends_the_wait_for_the_broker(broker: Broker) -> None:
    notes: list[str] = []
    worker = worker_of(broker, PartTurns("engine", notes), redis_url="redis://127.0.0.1:1")
    running = asyncio.create_task(worker.run())
    while notes != ["start engine"]:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    worker.drain()
    assert await asyncio.wait_for(running, 5) == 0
    assert notes == ["start engine", "stop engine"]


async def test_a_loop_that_fails_ends_the_worker_and_stops_everything(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    worker = worker_of(broker, PartTurns("engine", notes), maintenance_s=0.05)

    async def fail() -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(worker._leases, "trim", fail)
    assert await asyncio.wait_for(worker.run(), 10) == 1
    assert notes == ["start engine", "stop engine"]
    assert "text worker failed while working: ZeroDivisionError" in message(caplog)
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


async def test_a_claim_that_redis_refuses_is_tried_again(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    # The streams and groups are gone, and one is something else for a while.
    stream = stage.broker.keys.tasks("text", "interactive", 0)
    await stage.broker.call("FLUSHALL")
    await stage.broker.call("SET", stream, "not a stream")
    await asyncio.sleep(0.3)
    await stage.broker.call("DEL", stream)
    while not await stage.broker.call("EXISTS", stream):
        await asyncio.sleep(0.01)
    request = await stage.submit("after")
    await stage.check(request, await asyncio.wait_for(stage.events(request), 20))

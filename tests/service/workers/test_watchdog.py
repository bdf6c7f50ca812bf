from __future__ import annotations

import asyncio

import pytest

from model.engine.protocol import EngineDied, EngineVitals
from service.workers.watchdog import Watchdog

STALL_S = 0.5


class Engine:
    """An engine whose vitals a test sets."""

    def __init__(self) -> None:
        self.state = EngineVitals(alive=True, busy=False, num_steps=0)
        self.answers = True
        self.num_pings = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def vitals(self) -> EngineVitals:
        return self.state

    async def ping(self) -> None:
        self.num_pings += 1
        if not self.answers:
            await asyncio.Event().wait()


async def watch(watchdog: Watchdog) -> asyncio.Task[None]:
    task = asyncio.create_task(watchdog.watch())
    await asyncio.sleep(0)
    return task


async def test_an_idle_engine_and_one_that_advances_are_left_alone() -> None:
    engine = Engine()
    watchdog = Watchdog(engine, STALL_S)
    task = await watch(watchdog)
    for step in range(20):
        engine.state = EngineVitals(alive=True, busy=step % 2 == 0, num_steps=step)
        await asyncio.sleep(STALL_S / 10)
    assert not task.done() and watchdog.live and watchdog.ready
    assert engine.num_pings > 1
    task.cancel()


async def test_a_busy_engine_that_takes_no_step_hangs_although_it_answers() -> None:
    engine = Engine()
    watchdog = Watchdog(engine, STALL_S)
    task = await watch(watchdog)
    engine.state = EngineVitals(alive=True, busy=True, num_steps=3)
    with pytest.raises(EngineDied, match="not advanced for 0.5 s"):
        await asyncio.wait_for(task, 20)
    assert not watchdog.live and not watchdog.ready


async def test_an_idle_engine_that_does_not_answer_hangs() -> None:
    engine = Engine()
    watchdog = Watchdog(engine, STALL_S)
    engine.answers = False
    with pytest.raises(EngineDied, match="not advanced"):
        await asyncio.wait_for(watchdog.watch(), 20)
    assert not watchdog.live


async def test_an_engine_that_has_ended_is_noticed_at_the_next_look() -> None:
    engine = Engine()
    watchdog = Watchdog(engine, 60)
    task = await watch(watchdog)
    engine.state = EngineVitals(alive=False, busy=True, num_steps=0)
    assert not watchdog.ready
    with pytest.raises(EngineDied, match="has ended"):
        await asyncio.wait_for(task, 20)

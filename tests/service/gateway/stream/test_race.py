"""The first of several coroutines."""

from __future__ import annotations

import asyncio

import pytest

from service.gateway.stream.race import Race


async def test_the_first_wins_and_the_others_are_cancelled() -> None:
    ended = []

    async def wait(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append(seconds)
            raise

    async with Race(wait(30), wait(0), wait(60)) as race:
        assert await race.first() == 1
    assert sorted(ended) == [30, 60]


async def test_an_error_of_the_first_is_raised() -> None:
    async def fail() -> None:
        raise ValueError

    async with Race(fail(), asyncio.sleep(30)) as race:
        with pytest.raises(ValueError):
            await race.first()

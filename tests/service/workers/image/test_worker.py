"""Steps and previews are reported not too often, and never twice."""

from __future__ import annotations

from typing import cast

import pytest

from model.engine.protocol import ImageProgress
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.config import ImageWorkerSettings
from service.workers.image import worker
from service.workers.image.worker import ProgressReport, engine_options


class Recorder:
    """Takes the events that would be appended."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.previews: list[int] = []

    async def append(self, attempt: Attempt, events: object, **fields: int) -> None:
        self.steps += [fields["progress"]] if "progress" in fields else []
        self.previews += [fields["previews"]] if "previews" in fields else []


class Begun:
    """An attempt whose predecessor has reported something already."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields


def report(recorder: Recorder, **fields: str) -> ProgressReport:
    attempt = cast(Attempt, Begun(**fields))
    return ProgressReport(cast(Leases, recorder), attempt, index=1, interval_s=0.1)


async def test_steps_are_throttled_but_the_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    recorder = Recorder()
    progress = report(recorder)
    for step in range(1, 11):
        await progress.step(ImageProgress(step, 10))
        now += 0.04
    assert recorder.steps == [1, 4, 7, 10]
    now -= 0.04
    recorder.steps.clear()
    progress = report(recorder)
    for step in range(1, 11):
        await progress.step(ImageProgress(step, 10))
    assert recorder.steps == [1, 10]


async def test_a_second_attempt_tells_nothing_again() -> None:
    recorder = Recorder()
    progress = report(recorder, progress="4", previews="1")
    for step in range(1, 7):
        await progress.step(ImageProgress(step, 6))
    assert recorder.steps == [5, 6]
    await progress.preview(1, "0" * 64)
    await progress.preview(2, "0" * 64)
    assert recorder.previews == [2]


def test_the_settings_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "IMAGE_BACKEND": "onnxruntime",
        "IMAGE_FALLBACK": "false",
        "IMAGE_MEMORY_MIB": "512",
        "IMAGE_CONCURRENCY": "3",
        "WARM_UP": "1,2",
    }.items():
        monkeypatch.setenv(f"MMI_{name}", value)
    options = engine_options(ImageWorkerSettings())
    assert (options.backend, options.fallback) == ("onnxruntime", False)
    assert (options.memory_mib, options.max_batch, options.warm_up) == (512, 3, (1, 2))

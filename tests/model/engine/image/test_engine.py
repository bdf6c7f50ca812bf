"""The image engine as its callers see it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from model.engine.image.engine import BatchedImageEngine, memory_for_images
from model.engine.image.options import ImageEngineOptions
from model.engine.protocol import EngineDied, ImageEnd, ImageProgress
from model.sampling_params import ImageParams
from tests.model.engine.jobs import conditioning_image, grid_checkpoint, small_checkpoint, tokens


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest_asyncio.fixture
async def engine(checkpoint: Path) -> AsyncIterator[BatchedImageEngine]:
    engine = BatchedImageEngine(ImageEngineOptions(checkpoint, device="cpu"))
    await engine.start()
    yield engine
    await engine.stop()


async def draw(engine: BatchedImageEngine, seed: int, **options: object) -> list[object]:
    params = ImageParams(seed=seed, **{"num_inference_steps": 3, **options})
    stream = engine.generate(tokens(seed), conditioning_image(1), params, f"request-{seed}")
    return [item async for item in stream]


def test_a_cards_free_memory_is_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a headroom; what PyTorch keeps unused counts as free."""
    backend: Any = SimpleNamespace(capabilities=SimpleNamespace(device="cuda"))
    for name, answer in {
        "mem_get_info": (5 << 30, 80 << 30),
        "memory_reserved": 3 << 30,
        "memory_allocated": 1 << 30,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    assert memory_for_images(backend) == 6 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 << 30))
    assert memory_for_images(backend) == 1 << 30


async def test_a_quarter_of_a_hosts_memory_is_for_images(engine: BatchedImageEngine) -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < engine.loop.memory_bytes <= total // 4


async def test_many_at_once(engine: BatchedImageEngine) -> None:
    answers = await asyncio.gather(*(draw(engine, seed) for seed in range(4)))
    for seed, items in enumerate(answers):
        assert [type(item) for item in items] == [ImageProgress] * 4 + [ImageEnd]
        end = items[-1]
        assert isinstance(end, ImageEnd)
        assert end.seed == seed
        assert end.image.size == (32, 32)
    again = (await draw(engine, 2))[-1]
    assert isinstance(again, ImageEnd)
    first = answers[2][-1]
    assert isinstance(first, ImageEnd)
    assert np.abs(np.asarray(again.image, int) - np.asarray(first.image, int)).max() <= 1


async def test_closing_the_iterator_frees_the_rows(engine: BatchedImageEngine) -> None:
    params = ImageParams(num_inference_steps=200)
    async with aclosing(engine.generate(tokens(1), None, params, "abandoned")) as items:
        async for _ in items:
            break
    while not engine.statistics.num_cancelled:
        await asyncio.sleep(0.01)
    assert engine.statistics.num_waiting == 0
    assert engine.statistics.num_steps < 200


async def test_deadline(engine: BatchedImageEngine) -> None:
    params = ImageParams(num_inference_steps=200)
    with pytest.raises(TimeoutError):
        async for _ in engine.generate(
            tokens(1), None, params, "late", deadline=time.monotonic() + 0.05
        ):
            pass
    with pytest.raises(TimeoutError):
        async for _ in engine.generate(tokens(1), None, params, "past", deadline=0.0):
            pass


async def test_guidance_is_the_checkpoints_unless_it_is_given(
    engine: BatchedImageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pixels(items: list[object]) -> bytes:
        last = items[-1]
        assert isinstance(last, ImageEnd)
        return last.image.tobytes()

    usual = pixels(await draw(engine, 1))
    weak = pixels(await draw(engine, 1, guidance_scale=2.0))
    assert usual == pixels(await draw(engine, 1, guidance_scale=3.0)) != weak
    decoder = replace(engine.backend.config.image_decoder, guidance_scale=2.0)
    monkeypatch.setattr(
        engine.backend, "config", replace(engine.backend.config, image_decoder=decoder)
    )
    assert pixels(await draw(engine, 1)) == weak


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 100_000}, "num_inference_steps"),
        ({"width": 33}, "multiples"),
        ({"width": 0, "height": -8}, "multiples"),
        ({"width": 64, "height": 64}, "at most"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"num_previews": 4}, "num_previews"),
        ({"scheduler": "euler"}, "scheduler"),
    ],
)
async def test_parameters_out_of_range(
    engine: BatchedImageEngine, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        await draw(engine, 1, **options)


async def test_image_tokens_that_form_a_grid_fit_one_size(tmp_path: Path) -> None:
    options = ImageEngineOptions(grid_checkpoint(tmp_path / "grid"), device="cpu")
    engine = BatchedImageEngine(options)
    await engine.start()

    async def generate(**size: int) -> object:
        params = ImageParams(num_inference_steps=2, **size)
        stream = engine.generate(torch.randn(16, 32), conditioning_image(1), params, "request")
        return [item async for item in stream][-1]

    with pytest.raises(ValueError, match="width and height of this model are 32"):
        await generate(width=16, height=32)
    assert isinstance(await generate(width=32, height=32), ImageEnd)
    await engine.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_device_that_fails_ends_the_engine_and_blames_no_image(
    engine: BatchedImageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await draw(engine, 1)
    vitals = engine.vitals()
    assert vitals.alive and not vitals.busy and vitals.num_steps > 3
    await engine.ping()

    def fail(*_: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(engine.backend, "join", fail)
    answers = await asyncio.gather(*(draw(engine, seed) for seed in (1, 2)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [EngineDied, EngineDied]
    assert not engine.vitals().alive
    with pytest.raises(EngineDied):
        await engine.ping()


async def test_stopping_fails_what_is_under_way(checkpoint: Path) -> None:
    engine = BatchedImageEngine(ImageEngineOptions(checkpoint, device="cpu"))
    await engine.start()
    stream = engine.generate(tokens(1), None, ImageParams(num_inference_steps=200), "request")
    await anext(stream)
    stopping = asyncio.create_task(engine.stop())
    with pytest.raises(RuntimeError, match="stopped"):
        async for _ in stream:
            pass
    await stopping

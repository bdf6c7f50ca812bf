from __future__ import annotations

import asyncio

import pytest
import torch
from PIL import Image

from model.bench.image.load import ImageLoad, ImageMeasurement, poisson
from model.segments import ImageSegment


def load_of(arrivals_s: tuple[float, ...], closed: bool = False) -> ImageLoad:
    previous = ImageSegment(Image.new("RGB", (8, 8)), "digest")
    tokens = torch.zeros(len(arrivals_s), 1, 1)
    return ImageLoad(arrivals_s, tokens, previous, 7, "ddim", closed)


def test_arrivals_repeat_and_keep_their_mean_distance() -> None:
    times = poisson(2000, 0.5)
    assert times == poisson(2000, 0.5) and times != poisson(2000, 0.5, seed=1)
    assert times[0] == 0 and list(times) == sorted(times)
    assert times[-1] / 1999 == pytest.approx(0.5, rel=0.1)


def test_requests_differ_by_their_seed() -> None:
    params = [load_of((0.0, 0.0)).sampling(index) for index in range(2)]
    assert [p.seed for p in params] == [0, 1]
    assert {(p.num_inference_steps, p.scheduler) for p in params} == {(7, "ddim")}


@pytest.mark.parametrize(("closed", "most"), [(True, 1), (False, 3)])
async def test_a_closed_load_has_one_request_at_a_time(closed: bool, most: int) -> None:
    running, highest = 0, 0

    async def serve(index: int) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.05)
        running -= 1

    latencies_s = await load_of((0.0, 0.0, 0.0), closed).latencies_s(serve)
    assert highest == most
    assert len(latencies_s) == 3 and min(latencies_s) >= 0.04


def test_a_result_is_per_second_and_per_image() -> None:
    latencies_s = [float(number) for number in range(1, 21)]
    result = ImageMeasurement.of("torch", 4, latencies_s, 10.0, 5.0, {"decode_s": 1.23456})
    assert (result.images_per_s, result.cpu_s_per_image) == (2.0, 0.25)
    assert (result.latency_p50_s, result.latency_p95_s) == (10.5, 20.0)
    assert result.parts_s == {"decode_s": 1.235}

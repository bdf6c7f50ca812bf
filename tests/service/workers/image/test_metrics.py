"""What the image engine counts is at `/metrics`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from model.engine.image.engine import BatchedImageEngine
from model.engine.image.options import ImageEngineOptions
from model.sampling_params import ImageParams
from service.workers.image.metrics import ImageEngineCollector
from tests.model.engine.jobs import conditioning_image, small_checkpoint, tokens


async def test_numbers_of_an_engine(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "model")
    # Engines that don't exist, so that the fallback is counted.
    options = ImageEngineOptions(checkpoint, "tensorrt", "cpu", engines=tmp_path / "engines")
    engine = BatchedImageEngine(options)
    registry = CollectorRegistry()
    registry.register(ImageEngineCollector(engine))
    assert generate_latest(registry) == b""  # not started yet

    await engine.start()
    engine.statistics.num_retried_in_float32 = 2
    sampling = ImageParams(num_inference_steps=3)
    async for _ in engine.generate(tokens(1), conditioning_image(1), sampling, "request"):
        pass
    # The last event leaves a moment before its image does.
    async with asyncio.timeout(10):
        while engine.statistics.num_running:
            await asyncio.sleep(0.01)
    lines = generate_latest(registry).decode().splitlines()
    await engine.stop()

    for expected in (
        "mmi_image_batches_total 3.0",
        "mmi_image_rows_total 6.0",
        "mmi_image_pictures_total 1.0",
        "mmi_image_cancelled_total 0.0",
        "mmi_image_retried_in_float32_total 2.0",
        "mmi_image_backend_fallbacks_total 1.0",
        "mmi_image_running 0.0",
        'mmi_image_batch_total{pictures="1"} 3.0',
        'mmi_image_features_total{lookup="miss"} 1.0',
        'mmi_image_backend{backend="torch",device="cpu",precision="float32"} 1.0',
    ):
        assert expected in lines
    [denoise_s] = (
        line for line in lines if line.startswith('mmi_image_seconds_total{part="denoise"}')
    )
    assert float(denoise_s.split()[-1]) > 0

"""The image engine's own statistics at `/metrics`, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model.engine.image.engine import BatchedImageEngine

_COUNTERS = {
    "num_steps": ("mmi_image_batches", "Evaluations of the U-Net, of batches of any size"),
    "num_rows": ("mmi_image_rows", "Rows evaluated: two per image and step with guidance"),
    "num_images": ("mmi_image_pictures", "Images finished"),
    "num_cancelled": ("mmi_image_cancelled", "Images cancelled"),
    "num_late": ("mmi_image_late", "Images dropped at their deadline"),
    "num_failed": ("mmi_image_failed", "Images that failed"),
    "num_retried_in_float32": (
        "mmi_image_retried_in_float32",
        "Images that were black or not finite and were generated again",
    ),
    "num_backend_fallbacks": (
        "mmi_image_backend_fallbacks",
        "Starts at which the chosen backend failed or gave other results",
    ),
}
_GAUGES = {
    "num_waiting": ("mmi_image_waiting", "Images that wait for memory"),
    "num_running": ("mmi_image_running", "Images in progress"),
}
_PARTS = ("prepare", "denoise", "schedule", "decode", "wait")


class ImageEngineCollector(Collector):
    """Metrics of one engine."""

    def __init__(self, engine: BatchedImageEngine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        if not self._engine.started:
            return
        statistics, cache = self._engine.statistics, self._engine.loop.cache
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, getattr(statistics, field))
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, getattr(statistics, field))
        seconds = CounterMetricFamily(
            "mmi_image_seconds", "Time of the denoising thread", labels=["part"]
        )
        for part in _PARTS:
            seconds.add_metric([part], getattr(statistics, f"{part}_s"))
        yield seconds
        sizes = CounterMetricFamily("mmi_image_batch", "Evaluations by size", labels=["pictures"])
        for size, num in sorted(statistics.batch_sizes.copy().items()):
            sizes.add_metric([str(size)], num)
        yield sizes
        lookups = CounterMetricFamily(
            "mmi_image_features", "Lookups of image features", labels=["lookup"]
        )
        lookups.add_metric(["hit"], cache.num_hits)
        lookups.add_metric(["miss"], cache.num_misses)
        yield lookups
        yield self._backend()

    def _backend(self) -> Metric:
        able = self._engine.backend.capabilities
        info = GaugeMetricFamily(
            "mmi_image_backend",
            "The backend in use, as labels",
            labels=["backend", "device", "precision"],
        )
        info.add_metric([able.name, able.device, able.precision], 1)
        return info


def export(engine: BatchedImageEngine) -> None:
    """Export an engine's statistics at `/metrics`."""
    REGISTRY.register(ImageEngineCollector(engine))

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from model.config.presets import preset
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup import machine
from model.engine.text.startup.machine import fit_to_machine, planned_utilization
from model.memory.plan import Assumptions, MemoryPlan, plan_memory

CARD = 4 << 30
TINY = preset("tiny")


@pytest.fixture(scope="module")
def plan() -> MemoryPlan:
    return plan_memory(TINY, Assumptions(step_tokens=1024, step_requests=32))


def platform(monkeypatch: pytest.MonkeyPatch, cuda: bool, capability: int = 90) -> None:
    """Pretend to be on another machine."""
    fake = SimpleNamespace(
        is_cpu=lambda: not cuda,
        has_device_capability=lambda least: capability >= least,
        get_device_total_memory=lambda: CARD,
    )
    monkeypatch.setattr(machine, "current_platform", fake)


def test_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, cuda=False)
    fitted = fit_to_machine(TextEngineOptions(Path()), TINY)
    assert (fitted.dtype, fitted.kv_cache_bytes) == ("float32", 512 << 20)
    assert fit_to_machine(fitted, TINY) == fitted


@pytest.mark.parametrize(("capability", "dtype"), [(75, "float16"), (80, "bfloat16")])
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: int, dtype: str) -> None:
    platform(monkeypatch, cuda=True, capability=capability)
    fitted = fit_to_machine(TextEngineOptions(Path(), image_concurrency=4), TINY)
    assert (fitted.dtype, fitted.kv_cache_bytes) == (dtype, 0)
    assert 0 < fitted.gpu_memory_utilization < 0.92
    assert fit_to_machine(fitted, TINY) == fitted


def test_a_share_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, cuda=True)
    options = TextEngineOptions(Path(), gpu_memory_utilization=0.3)
    assert fit_to_machine(options, TINY).gpu_memory_utilization == 0.3


@pytest.mark.parametrize("images", [1, 4, 16])
def test_an_image_worker_fits_beside_the_engine(plan: MemoryPlan, images: int) -> None:
    """It has room for its weights, and for what `mmi plan` counts for each image at a time."""
    options = TextEngineOptions(Path(), dtype="bfloat16", image_concurrency=images)
    left = (1 - planned_utilization(options, TINY, CARD)) * CARD
    image = plan.image
    needed = images * (image.conditions + image.activations)
    room = left - image.weights - plan.assumptions.reserve_bytes
    assert 0.95 * needed < room < 1.2 * needed


def test_without_an_image_worker_the_engine_takes_the_card() -> None:
    options = TextEngineOptions(Path(), dtype="bfloat16", image_concurrency=0)
    assert planned_utilization(options, TINY, CARD) == 0.92


def test_a_cache_of_a_given_size_takes_what_the_engine_needs(plan: MemoryPlan) -> None:
    options = TextEngineOptions(Path(), dtype="bfloat16", kv_cache_bytes=1 << 30)
    taken = planned_utilization(options, TINY, CARD) * CARD
    needed = plan.text.fixed_bytes(plan.assumptions.reserve_bytes) + (1 << 30)
    assert taken == pytest.approx(needed, rel=0.01)


def test_the_driver_keeps_a_part_of_every_card() -> None:
    options = TextEngineOptions(Path(), dtype="bfloat16", image_concurrency=4)
    assert planned_utilization(options, TINY, 1 << 45) == 0.92

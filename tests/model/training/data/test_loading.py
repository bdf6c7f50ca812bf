"""Batches made ahead are those of their steps."""

from __future__ import annotations

import torch

from model.training.data.loading import Loader, TensorBatch

_CPU = torch.device("cpu")


class _Numbers:
    def __getitem__(self, step: int) -> TensorBatch:
        return {"step": torch.tensor(step)}


def test_workers_make_the_same_batches_in_order() -> None:
    loader = Loader(_Numbers(), workers=2)
    assert [int(loader.load(step, _CPU)["step"]) for step in (5, 6, 7)] == [5, 6, 7]


def test_a_process_of_several_takes_its_own_steps() -> None:
    loader = Loader(_Numbers(), workers=1)
    assert [int(loader.load(step, _CPU)["step"]) for step in (1, 3, 5, 7)] == [1, 3, 5, 7]


def test_a_step_can_be_repeated() -> None:
    for workers in (0, 1):
        loader = Loader(_Numbers(), workers)
        assert [int(loader.load(0, _CPU)["step"]) for _ in range(3)] == [0, 0, 0]


class _Products:
    def __getitem__(self, step: int) -> TensorBatch:
        return {"product": torch.eye(2) @ torch.eye(2)}


def test_a_step_in_half_precision_gets_the_same_batches() -> None:
    for workers in (0, 1):
        with torch.autocast("cpu", torch.bfloat16):
            batch = Loader(_Products(), workers).load(0, _CPU)
        assert batch["product"].dtype == torch.float32

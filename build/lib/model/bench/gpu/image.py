"""The image step on a card, against the published algorithm in the same process."""

from __future__ import annotations

import torch

from model.bench.gpu.recorder import Recorder
from model.bench.image.device_step import BASELINE, DeviceSteps
from model.config.presets import preset

_STEPS_OF_AN_IMAGE = 30
_BATCHES, _REHEARSED_BATCHES = (1, 8), (1, 2)


def run_eager(recorder: Recorder) -> None:
    """Eager and recorded steps at the published sizes, and where their time goes."""
    steps = _steps(recorder)
    recorder.note("peak", tflops=_rounded(steps.peak_tflops))
    for batch in steps.inputs:
        for variant in steps.variants():
            if variant != "torch-compiled":
                _note_step(recorder, steps, variant, batch)
    recorder.note("decode", batch=1, ms=_rounded(steps.decode_ms(1)))
    for batch in steps.inputs:
        for kernel in steps.kernels("torch", batch):
            recorder.note("kernel", variant="torch", batch=batch, **kernel)


def run_compiled(recorder: Recorder) -> None:
    """Steps compiled block by block and recorded, and the recorded ones' largest kernels."""
    steps = _steps(recorder)
    for batch in steps.inputs:
        _note_step(recorder, steps, "torch-compiled", batch)
        for kernel in steps.kernels("torch-compiled", batch):
            recorder.note("kernel", variant="torch-compiled", batch=batch, **kernel)


def _steps(recorder: Recorder) -> DeviceSteps:
    config = preset("tiny" if recorder.rehearsal else "13b")
    device = torch.device("cpu" if recorder.rehearsal else "cuda")
    return DeviceSteps(config, device, _REHEARSED_BATCHES if recorder.rehearsal else _BATCHES)


def _note_step(recorder: Recorder, steps: DeviceSteps, variant: str, batch: int) -> None:
    row = steps.measure(variant, batch)
    follows = None if variant == BASELINE else steps.follows_its_inputs(variant, batch)
    recorder.note(
        "step",
        variant=variant,
        batch=batch,
        ms=_rounded(row.ms),
        steps_per_s=_rounded(row.steps_per_s),
        images_per_s=_rounded(row.steps_per_s * batch / _STEPS_OF_AN_IMAGE),
        tflops=_rounded(row.tflops),
        share_of_peak=_rounded(row.share_of_peak),
        first_s=_rounded(row.first_s),
        difference_from_float32=_rounded(row.difference),
        difference_from_eager_with_other_inputs=None if follows is None else _rounded(follows),
    )


def _rounded(number: float) -> float:
    """Four significant digits."""
    return float(f"{number:.4g}")

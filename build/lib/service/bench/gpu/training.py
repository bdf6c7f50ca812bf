"""Training on the card: steps a second of the shipped recipe's phases, and how busy the card is."""

from __future__ import annotations

import csv
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from model.bench.gpu.recorder import Recorder
from model.checkpoint import load, store
from model.processor import Processor
from model.training.phases import run_phase
from model.training.recipe import Phase, Recipe
from model.training.world.drawn.world import DrawnWorld

_RECIPE = Path(__file__).resolve().parents[3] / "deploy" / "train" / "tiny.toml"
_STEPS = 60
_REHEARSED_STEPS, _REHEARSED_BATCH = 20, 2  # The trainer notes the time after every tenth step.
_SETTLED = 0.5  # The share of steps after which time is taken.
_POOL = 64
_SAMPLE_S = 0.25


def run(recorder: Recorder) -> None:
    """Some steps of each phase of the second stage, from the shipped checkpoint."""
    recipe = replace(Recipe.load(_RECIPE), world=DrawnWorld())  # Needs no font.
    for phase in recipe.sft:
        short = replace(phase, steps=_STEPS, num_pictures=min(phase.num_pictures, _POOL))
        if recorder.rehearsal:
            short = replace(short, steps=_REHEARSED_STEPS, batch_size=_REHEARSED_BATCH)
        with Utilisation() as utilisation:
            settled = _train(recorder, recipe, short)
        recorder.note(
            "training",
            name=phase.phase,
            batch=short.batch_size,
            steps_per_s=round(settled.steps_per_s, 2),
            waiting_share=utilisation.idle_share(settled.first_s, settled.last_s),
        )


@dataclass(frozen=True)
class Settled:
    """The steps after a phase has settled, and the times of day at their ends."""

    num_steps: int
    first_s: float
    last_s: float

    @property
    def steps_per_s(self) -> float:
        return self.num_steps / (self.last_s - self.first_s)


def _train(recorder: Recorder, recipe: Recipe, phase: Phase) -> Settled:
    model = load.load_model(recorder.checkpoint)
    processor = Processor(model.config, store.load_tokenizer(recorder.checkpoint))
    with tempfile.TemporaryDirectory() as directory:
        run_phase(model, processor, recipe, phase, Path(directory))
        (curves,) = Path(directory).rglob("*.csv")
        with curves.open() as file:
            rows = list(csv.DictReader(file))
        last_s = curves.stat().st_mtime  # The last row is written when its step ends.
    first, last = rows[int(len(rows) * _SETTLED) - 1], rows[-1]
    duration_s = float(last["seconds"]) - float(first["seconds"])
    return Settled(int(last["step"]) - int(first["step"]), last_s - duration_s, last_s)


class Utilisation:
    """Samples how busy the card is, while it is entered; None where no tool says so."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []  # time of day, percent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def idle_share(self, first_s: float, last_s: float) -> float | None:
        """The share of time in which no kernel ran, between two times of day."""
        samples = [busy for at_s, busy in self._samples if first_s <= at_s <= last_s]
        if not samples:
            return None
        return round(1 - sum(samples) / len(samples) / 100, 3)

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(_SAMPLE_S):
            try:
                done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=5)
            except (OSError, subprocess.SubprocessError):
                return
            self._samples.append((time.time(), float(done.stdout.split()[0])))

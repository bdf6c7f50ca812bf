"""One training loop for every phase: exact resumption, schedule, clipping, averages, curves.

The batches and random numbers of a step depend on the seed and the step alone, so a killed run
resumes with the bits that it would have had.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.training.optimizer import Optimizer, OptimizerName
from model.training.parameters import ParameterGroup


class Curves:
    """A CSV file with a row for every logged step: `step`, the losses, rate, norm, seconds.

    A resumed run repeats the steps since its last state. Their old rows are dropped, so that every
    step has one row, and the seconds continue from the row before.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Open the curves of a run that stands at `step`."""
        self.path = path
        rows = _rows(path) if path.is_file() else []
        kept = [row for row in rows[1:] if int(row[0]) <= step]
        self.seconds = float(kept[-1][-1]) if kept else 0.0
        if not kept:
            path.unlink(missing_ok=True)
            return
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        partial.replace(path)

    def append(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Add a row; `seconds` since this process began."""
        is_new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", *metrics, "seconds"])
            values = (*metrics.values(), self.seconds + seconds)
            writer.writerow([step, *(f"{value:.6g}" for value in values)])


def _rows(path: Path) -> list[list[str]]:
    """The header and all complete rows; a kill may have truncated the last one."""
    text = path.read_text()
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it is faster there; CPUs without instructions for it take twenty times as long."""
    flags = Path("/proc/cpuinfo")
    return device.type != "cpu" or (flags.is_file() and "bf16" in flags.read_text())


_STATE = "state.json"


@dataclass(frozen=True)
class TrainerConfig:
    """Steps and rates.

    Attributes:
        save_seconds: time between two saved states.
        half: multiply in bfloat16 where that is faster; weights stay float32.
        seconds: limit of the time of all runs together. The rate then falls with time, if that
            runs out before the steps, so such a run is not repeatable to the bit.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 30
    final_rate: float = 0.02
    weight_decay: float = 1e-2
    optimizer: OptimizerName = "adamw"
    max_norm: float = 1.0
    ema_decay: float = 0.0
    save_seconds: float = 60.0
    log_every: int = 10
    seed: int = 0
    half: bool = False
    seconds: float | None = None


class Objective(Protocol):
    """The trained module, its parameters and its losses."""

    @property
    def module(self) -> nn.Module:
        """The module that is moved to the device; it holds all trained parameters."""
        ...

    def groups(self) -> list[ParameterGroup]:
        """The parameters to train."""
        ...

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """The terms of the batch of that number; `loss` is what is minimised."""
        ...


class Trainer:
    """Runs an objective, from the last state in `directory` if there is one.

    It runs on the device that accelerate chooses. Each of several processes (`accelerate launch`)
    has its own batches; gradients are averaged.
    """

    def __init__(self, objective: Objective, config: TrainerConfig, directory: Path) -> None:
        self.objective, self.config, self.directory = objective, config, directory
        self.accelerator = Accelerator()
        # Adam's moments of rarely used weights become denormal, which slows processors down.
        torch.set_flush_denormal(True)
        objective.module.to(self.accelerator.device)
        groups = objective.groups()
        self.parameters = [p for group in groups for p in group.parameters]
        self.optimizer = Optimizer(
            groups, config.weight_decay, config.optimizer, self.accelerator.device
        )
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay else []
        self.step, self._seconds = 0, 0.0
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / _STATE).is_file():
            self._load()

    def run(self, stop_at: int | None = None) -> dict[str, float]:
        """Train to the end (or to step `stop_at`) and return the last logged losses."""
        last = min(stop_at or self.config.steps, self.config.steps)
        if self._part(self.step) >= 1:
            last = self.step
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        metrics: dict[str, float] = {}
        before, started = self._seconds, time.monotonic()
        saved = started
        is_main = self.accelerator.is_main_process  # Only this process writes and shows progress.
        curves = Curves(self.directory / "log.csv", self.step) if is_main else None
        with Progress(*columns, TimeRemainingColumn(), disable=not is_main) as bar:
            task = bar.add_task("training", total=self.config.steps, completed=self.step)
            while self.step < last:
                terms = self._step()
                now = time.monotonic()
                self._seconds = before + now - started
                if self._part(self.step) >= 1:
                    last = self.step
                if self.step % self.config.log_every == 0 or self.step == last:
                    metrics = {name: float(value) for name, value in terms.items()}
                    if curves is not None:
                        curves.append(self.step, metrics, now - started)
                    loss = f"training, loss {metrics['loss']:.4f}"
                    bar.update(task, completed=self.step, description=loss)
                if now - saved >= self.config.save_seconds or self.step == last:
                    self._save()
                    saved = now
        return metrics

    def use_average(self) -> None:
        """Copy the averaged weights into the module."""
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=False):
                parameter.copy_(mean)

    def rate(self, step: int) -> float:
        """The learning rate: linear warm-up, then half a cosine."""
        config = self.config
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        part = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        falling = 0.5 * (1 + math.cos(math.pi * min(max(part, self._spent()), 1.0)))
        return config.learning_rate * (config.final_rate + (1 - config.final_rate) * falling)

    def _part(self, step: int) -> float:
        """How much of the run is done, in steps or in time, whichever is more."""
        return max(step / self.config.steps, self._spent())

    def _spent(self) -> float:
        """The share of the time that is spent; 0 without a limit."""
        return self._seconds / self.config.seconds if self.config.seconds else 0.0

    def _step(self) -> dict[str, Tensor | float]:
        set_seed((self.config.seed * 1_000_003 + self.step) % 2**32, device_specific=True)
        rate = self.rate(self.step)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        with self._precision():
            losses = self.objective.losses(self.step * processes + rank)
        for parameter in self.parameters:
            parameter.grad = None
        self.accelerator.backward(losses["loss"])
        if processes > 1:
            self._average_gradients()
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_norm)
        self.optimizer.step(rate)
        self.step += 1
        self._update_average()
        # Tensors: reading their values every step would keep a GPU waiting.
        values = {name: value.detach() for name, value in losses.items()}
        return {**values, "rate": rate, "norm": norm}

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Autocast to bfloat16 if `half` and if this machine is faster so.

        On a CPU without fused attention, whose backward pass takes up to three times as long in
        bfloat16.
        """
        device = self.accelerator.device
        half, is_cpu = self.config.half and multiplies_bfloat16(device), device.type == "cpu"
        attention = sdpa_kernel(SDPBackend.MATH) if half and is_cpu else nullcontext()
        with torch.autocast(device.type, torch.bfloat16, enabled=half), attention:
            yield

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """The mean of all processes' gradients; an unused parameter counts as zero."""
        for parameter in self.parameters:
            mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(mine, "mean")

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.average:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [*self.parameters], 1 - decay)

    def _save(self) -> None:
        """Write the state to a new file, then point to it: a kill leaves the old state valid."""
        if not self.accelerator.is_main_process:
            return
        name = f"step{self.step:07d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for index, parameter in enumerate(self.parameters):
            tensors[f"parameter.{index}"] = parameter.detach().contiguous()
            for key, value in self.optimizer.state_of(parameter).items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
        tensors |= {f"average.{i}": mean.contiguous() for i, mean in enumerate(self.average)}
        save_file(tensors, self.directory / name)
        state = {"step": self.step, "file": name, "seconds": self._seconds}
        partial = self.directory / f"{_STATE}.partial"
        partial.write_text(json.dumps(state))
        partial.replace(self.directory / _STATE)
        self._remove(path for path in self.directory.glob("step*.safetensors") if path.name != name)

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink()

    @torch.no_grad()
    def _load(self) -> None:
        state = json.loads((self.directory / _STATE).read_text())
        tensors = load_file(self.directory / state["file"])
        self.step, self._seconds = int(state["step"]), float(state["seconds"])
        for index, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"parameter.{index}"])
            prefix = f"optimizer.{index}."
            device = parameter.device
            entry: dict[str, Any] = {
                name.removeprefix(prefix): tensor if name.endswith("step") else tensor.to(device)
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            self.optimizer.state_of(parameter).update(entry)
        for index, mean in enumerate(self.average):
            mean.copy_(tensors[f"average.{index}"])

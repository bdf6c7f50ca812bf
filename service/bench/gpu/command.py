"""`mmi bench gpu`: phases in the order of their value, each in a process with a time limit.

Results are lines of `DIR/results.jsonl`, written as they come, so that whatever ran is kept when
time runs out. A second call goes on: phases that are done are skipped, others run again, the text
phases without the benchmarks that have their result. `--rehearse` runs the same code on the CPU at
the sizes of `tiny`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from model.bench.gpu.recorder import Recorder, Row, read
from model.bench.processes import process_tree
from model.bench.report import machine_name, print_table
from model.checkpoint.shipped import SHIPPED
from service.config import LocalSettings
from service.local.processes import die_with_parent, interrupt_once

_RESULTS = "results.jsonl"
_LEAST_S = 20.0
_SHOWN_LINES = 20
_COMMAND = [sys.executable, "-m", "service", "bench", "gpu"]


@dataclass(frozen=True)
class GpuPhase:
    """A part of the report.

    Attributes:
        name: for `--only`.
        function: `module:function`, which takes a `Recorder`.
        limit_s: after which it is killed; its results so far stay.
    """

    name: str
    function: str
    limit_s: float


PHASES = (
    GpuPhase("image-step", "model.bench.gpu.image:run_eager", 70),
    GpuPhase("text-parity", "service.bench.gpu.text:run_parity", 150),
    GpuPhase("text-speed", "service.bench.gpu.text:run_speed", 140),
    GpuPhase("service", "service.bench.gpu.stories:run", 100),
    GpuPhase("image-compiled", "model.bench.gpu.image:run_compiled", 70),
    GpuPhase("tensorrt", "model.bench.gpu.engines:run", 40),
    GpuPhase("training", "service.bench.gpu.training:run", 30),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench gpu`."""
    names = [phase.name for phase in PHASES]
    parser.add_argument("--out", type=Path, help="default: out/gpu, out/gpu-rehearsal")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PHASE")
    parser.add_argument("--limit-s", type=float, default=600, help="of the whole; 0: none")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at small sizes")
    parser.add_argument("--checkpoint", type=Path, help="default: MMI_CHECKPOINT, the shipped one")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--phase", choices=names, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the phases that are not done.

    Returns: 0 if all of those asked for are done now, 1 if one is not, 2 without a card.
    """
    args.out = args.out or Path("out/gpu-rehearsal" if args.rehearse else "out/gpu")
    args.checkpoint = args.checkpoint or LocalSettings().checkpoint or SHIPPED
    if not (args.rehearse or _has_card()):
        _say("PyTorch finds no CUDA device here; --rehearse runs the same code on the CPU")
        return 2
    if args.phase is not None:
        _run_here(args)
        return 0
    interrupt_once()
    started, path = time.monotonic(), args.out / _RESULTS
    device = machine_name()
    _say(f"{device}: results in {path}")
    try:
        _run_phases(args, path, device, started)
    except KeyboardInterrupt:  # What ran is kept.
        _say("interrupted")
    show(path)
    return 0 if set(args.only) <= done(path, device) else 1


def _run_phases(args: argparse.Namespace, path: Path, device: str, started: float) -> None:
    """Those that are asked for and not done, while there is time."""
    for phase in PHASES:
        left_s = args.limit_s - (time.monotonic() - started) if args.limit_s else phase.limit_s
        if phase.name not in args.only or phase.name in done(path, device):
            continue
        if left_s < _LEAST_S:
            _say(f"{phase.name}: no time left")
            continue
        _run_apart(phase, args, min(phase.limit_s, left_s) if args.limit_s else None)


def done(path: Path, device: str) -> set[str]:
    """The phases that have come to their end on this machine."""
    rows = (row for row in read(path) if row["what"] == "done" and row["device"] == device)
    return {row["phase"] for row in rows}


def _recorder(args: argparse.Namespace, name: str) -> Recorder:
    return Recorder(
        name,
        args.out / _RESULTS,
        machine_name(),
        args.rehearse,
        args.checkpoint,
        args.cache_dir / ("gpu-rehearsal" if args.rehearse else "gpu"),
    )


def _run_here(args: argparse.Namespace) -> None:
    """The phase itself, in a process that the report has started."""
    phase = next(phase for phase in PHASES if phase.name == args.phase)
    module, function = phase.function.split(":")
    recorder = _recorder(args, phase.name)
    getattr(importlib.import_module(module), function)(recorder)
    recorder.note("done")


def _run_apart(phase: GpuPhase, args: argparse.Namespace, limit_s: float | None) -> None:
    """Run a phase in a process of its own; kill whatever it has started once it ends."""
    options = [*(["--rehearse"] if args.rehearse else []), "--out", str(args.out)]
    options += ["--checkpoint", str(args.checkpoint), "--cache-dir", str(args.cache_dir)]
    command = [*_COMMAND, "--phase", phase.name, *options]
    log = args.out / f"{phase.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        status = str(process.wait(limit_s))
    except subprocess.TimeoutExpired:
        status = "out of time"
    finally:
        _kill(process)
    seconds = time.monotonic() - started
    _say(f"{phase.name}: {_word(status)} after {seconds:.0f} s")
    if status != "0":
        end = log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        _recorder(args, phase.name).note("failed", status=status, output="\n".join(end))
        _say("\n".join(end))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a phase with all that it has started: what lives on would hold the card's memory."""
    for pid in process_tree(process.pid):  # Some of them have sessions of their own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_card() -> bool:
    import torch  # Late: `--help` needs no PyTorch.

    return torch.cuda.is_available()


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False)


def _word(status: str) -> str:
    return {"0": "done", "out of time": "out of time"}.get(status, f"status {status}")


def show(path: Path) -> None:
    """Print all results as a table."""
    rows = [row for row in read(path) if row["what"] != "done"]
    print_table(
        {
            "phase": lambda row: row["phase"],
            "result": lambda row: row["what"],
            "values": _values,
        },
        rows,
    )


def _values(row: Row) -> str:
    hidden = {"phase", "what", "device", "rehearsal", "at_s"}
    shown = {key: value for key, value in row.items() if key not in hidden and value is not None}
    return ", ".join(f"{key} {str(value)[:160]}" for key, value in shown.items())

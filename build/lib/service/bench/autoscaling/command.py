"""`mmi bench autoscaling`: time in queue, replica hours and cost of traces and settings."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.bench.autoscaling.scaler import Scaling
from service.bench.autoscaling.simulation import SimulatedRun, Simulation
from service.bench.autoscaling.stage import Service
from service.bench.autoscaling.traces import TRACES

# Starts as measured (docs/reliability.md); the lengths of turns are round figures for the shipped
# model on two cores. Give those of your own machines as arguments.
SERVICES = {
    "text": Service(turn_s=6.0, concurrency=16, start_s=65.0),
    "image": Service(turn_s=8.0, concurrency=4, start_s=25.0),
}
# What the manifests set; a test compares them.
SCALINGS = {"text": Scaling(target=16, most=8), "image": Scaling(target=4, most=16)}
TARGETS = {"text": (4, 8, 16), "image": (1, 2, 4)}
COOLDOWNS_S, STABILIZATIONS_S = (60.0, 300.0), (60.0, 120.0, 300.0)
# Replicas that a large load may take, as a multiple of those that its average needs.
_HEADROOM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 1, 100, 10_000])
    parser.add_argument("--traces", nargs="+", choices=TRACES, default=list(TRACES))
    parser.add_argument("--text-price", type=float, default=1.0, help="of a replica's hour")
    parser.add_argument("--image-price", type=float, default=1.0)
    for stage, service in SERVICES.items():
        parser.add_argument(f"--{stage}-turn", type=float, default=service.turn_s, help="seconds")
        parser.add_argument(f"--{stage}-start", type=float, default=service.start_s, help="seconds")
    parser.add_argument("--search", action="store_true", help="compare targets and windows")
    parser.add_argument("--out", type=Path, default=Path("out/autoscaling"))


def run(args: argparse.Namespace) -> int:
    """Print a table; write it as JSON and as a plot."""
    prices = {"text": args.text_price, "image": args.image_price}
    services = {
        stage: replace(service, turn_s=turn_s, start_s=start_s)
        for (stage, service), turn_s, start_s in zip(
            SERVICES.items(),
            (args.text_turn, args.image_turn),
            (args.text_start, args.image_start),
            strict=True,
        )
    }
    rows = []
    for name, rate in itertools.product(args.traces, args.rates):
        for label, scalings in _settings(args.search):
            outcome = simulate(name, rate, services, scalings)
            rows.append(row(name, rate, label, outcome, prices))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "autoscaling.json").write_text(json.dumps(rows, indent=1) + "\n")
    _show(rows)
    _plot(rows, args.out / "autoscaling.png")
    return 0


def simulate(
    trace: str, rate: float, services: Mapping[str, Service], scalings: Mapping[str, Scaling]
) -> SimulatedRun:
    """One trace; a load that needs more than the manifests' maximum gets a larger one."""
    images = TRACES[trace].images
    turns = {"text": images + 1, "image": images}
    needed = {
        stage: rate * turns[stage] * service.turn_s / service.concurrency
        for stage, service in services.items()
    }
    grown = {
        stage: replace(scaling, most=max(scaling.most, math.ceil(_HEADROOM * needed[stage])))
        for stage, scaling in scalings.items()
    }
    return Simulation(TRACES[trace], rate, services, grown).run()


def _settings(search: bool) -> Iterable[tuple[str, dict[str, Scaling]]]:
    if not search:
        yield "defaults", SCALINGS
        return
    for factor, cooldown, window in itertools.product(range(3), COOLDOWNS_S, STABILIZATIONS_S):
        targets = {stage: choices[factor] for stage, choices in TARGETS.items()}
        label = f"{targets['text']}/{targets['image']}, {cooldown:.0f} s, {window:.0f} s"
        yield (
            label,
            {
                stage: replace(
                    scaling,
                    target=targets[stage],
                    cooldown_s=cooldown,
                    stabilization_s=window,
                )
                for stage, scaling in SCALINGS.items()
            },
        )


def row(
    trace: str, rate: float, label: str, outcome: SimulatedRun, prices: Mapping[str, float]
) -> dict[str, Any]:
    """A line of the report; waits in seconds."""
    return {
        "trace": trace,
        "rate": rate,
        "settings": label,
        "stories": round(outcome.stories),
        "text_wait_p50_s": outcome.wait_p50_s["text"],
        "text_wait_p99_s": outcome.wait_p99_s["text"],
        "image_wait_p50_s": outcome.wait_p50_s["image"],
        "image_wait_p99_s": outcome.wait_p99_s["image"],
        "replica_hours": round(sum(outcome.replica_hours.values()), 2),
        "peak_text": outcome.peak_replicas["text"],
        "peak_image": outcome.peak_replicas["image"],
        "cost_per_1000": round(outcome.cost(prices), 2),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0])
    for line in rows:
        table.add_row(*map(str, line.values()))
    Console(width=200).print(table)


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Waits and cost over the rate, one line a trace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for trace in dict.fromkeys(line["trace"] for line in rows):
        lines = [line for line in rows if line["trace"] == trace]
        rates = [line["rate"] for line in lines]
        axes[0].plot(rates, [line["image_wait_p99_s"] for line in lines], "o-", label=trace)
        axes[1].plot(rates, [line["cost_per_1000"] for line in lines], "o-", label=trace)
    titles = ("image turns: 99th percentile of the time in queue, s", "cost of 1,000 stories")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xscale="log", xlabel="stories per second", title=title)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

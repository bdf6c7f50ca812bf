"""`mmi eval`: the scores of a checkpoint on held-out examples of the picture-book world."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.training.answers import Answerer, Answering
from model.training.scores import HELD_OUT, SCORES

_BOOTSTRAPS = 500
Report = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi eval`."""
    parser.add_argument("--checkpoint", type=Path, default=Path("deploy/checkpoints/tiny"))
    parser.add_argument("--objects", choices=("drawn", "emoji"), default="drawn")
    parser.add_argument("--number", type=int, default=50, help="examples of each task")
    parser.add_argument("--tasks", nargs="+", choices=tuple(SCORES), default=tuple(SCORES))
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table to this file")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, write it if asked to."""
    answering = Answering(num_inference_steps=args.steps, guidance_scale=args.guidance)
    answerer = Answerer.load(args.checkpoint, answering)
    console = Console()
    values: dict[str, list[float]] = defaultdict(list)
    for task in args.tasks:
        for number in track(range(args.number), description=task, console=console):
            rng = random.Random(f"{HELD_OUT}/{args.seed}/{task}/{number}")
            for name, value in SCORES[task](answerer, rng, args.objects):
                values[name].append(value)
    report = summarise(values)
    console.print(as_table(report))
    if args.json:
        document = {
            "checkpoint": str(args.checkpoint),
            "objects": args.objects,
            "number": args.number,
            "steps": args.steps,
            "guidance": args.guidance,
            "seed": args.seed,
            "torch": torch.__version__,
            "scores": report,
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def summarise(values: dict[str, list[float]]) -> Report:
    """Mean, number and bootstrapped 95 % interval of every score."""
    generator = np.random.default_rng(0)
    report: Report = {}
    for name, numbers in values.items():
        array = np.array(numbers)
        means = generator.choice(array, (_BOOTSTRAPS, len(array))).mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        report[name] = {
            "mean": round(float(array.mean()), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "number": len(array),
        }
    return report


def as_table(report: Report) -> Table:
    """The report for people."""
    table = Table("score", "mean", "95 % interval", "number")
    for name, row in report.items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['mean']:.3f}", interval, str(int(row["number"])))
    return table

"""`mmi eval`: scores of a checkpoint on held-out examples of a world."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    track,
)
from rich.table import Table

from model.checkpoint.shipped import SHIPPED
from model.config.schema import ConfigError
from model.training.data.batches import collate, tokenise
from model.training.evaluation.answers import (
    SYNCHRONIZERS,
    Answerer,
    AnswerOptions,
    OfflineAnswerer,
)
from model.training.evaluation.chat.questions import TASK as CHAT
from model.training.evaluation.chat.scores import (
    question_rows,
    ratio_row,
    request_rows,
    untouched_answerer,
)
from model.training.evaluation.images import ImageSettings
from model.training.evaluation.sheet import contact_sheet
from model.training.objectives.losses import text_loss
from model.training.world.registry import WORLDS, world_of
from model.training.world.world import World

_BATCH = 16
_READER, _PERPLEXITY = "reader", "perplexity"
_QUALITY = 85  # Of sheets in formats that lose something.
_HELD_OUT = "held-out"
_STORIES_OF_A_SHEET = 24
_STORIES_AT_ONCE = 8
_BOOTSTRAPS = 500

ScoreTable = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi eval`."""
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--world", choices=WORLDS, default="storybook")
    parser.add_argument("--number", type=int, default=50, help="examples of each task")
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", help=f"by default all of the world's; also {CHAT}"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--without",
        nargs="+",
        choices=SYNCHRONIZERS,
        default=(),
        help="ablate a synchronizer of the trained model (not with --served)",
    )
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="write a contact sheet of 24 answers (PNG, JPEG or WebP) instead of scoring",
    )
    parser.add_argument("--sheet-task", default="story", help="the task of the contact sheet")


def answering_of(args: argparse.Namespace) -> AnswerOptions:
    """The options that the arguments ask for."""
    drawing = ImageSettings(num_inference_steps=args.steps, guidance_scale=args.guidance)
    return AnswerOptions(drawing, seed=args.seed)


def run(args: argparse.Namespace, answerer: Answerer | None = None) -> int:
    """Evaluate and print a table; `answerer` replaces the checkpoint."""
    console = Console()
    world_of(args.world).check()
    offline = None
    if answerer is None:
        answerer = offline = OfflineAnswerer.load(args.checkpoint, answering_of(args), args.without)
    if args.sheet:
        _write_sheet(args, answerer, console)
        return 0
    report = Evaluation(args, answerer, offline, console).run()
    console.print(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(_document(args, report, offline), indent=2) + "\n")
    return 0


def _write_sheet(args: argparse.Namespace, answerer: Answerer, console: Console) -> None:
    """Write a contact sheet of the answers to consecutive held-out examples."""
    world = world_of(args.world)
    asked = [
        world.example(args.sheet_task, random.Random(f"{_HELD_OUT}/{args.seed}/sheet/{number}"))
        for number in range(_STORIES_OF_A_SHEET)
    ]
    answers = []
    for start in track(range(0, len(asked), _STORIES_AT_ONCE), "stories", console=console):
        answers += answerer.answer(asked[start : start + _STORIES_AT_ONCE], start)
    contact_sheet(asked, answers).save(args.sheet, quality=_QUALITY)
    console.print(f"written: {args.sheet}")


@dataclass
class Evaluation:
    """One run over tasks and examples."""

    args: argparse.Namespace
    answerer: Answerer
    offline: OfflineAnswerer | None
    console: Console
    values: dict[str, list[float]] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return world_of(self.args.world)

    def run(self) -> ScoreTable:
        """The summary of all scores."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as bar:
            for task in self._tasks():
                line = bar.add_task(task, total=self.args.number)
                for start in range(0, self.args.number, _BATCH):
                    stop = min(start + _BATCH, self.args.number)
                    for name, value in self._rows(task, start, stop):
                        self.values.setdefault(name, []).append(value)
                    bar.update(line, completed=stop)
        return summarise(self.values) | ratio_row(self.values)

    @cached_property
    def untouched(self) -> OfflineAnswerer | None:
        """The untouched language model that chat is compared with."""
        checkpoint = self.args.checkpoint if self.offline else None
        return untouched_answerer(checkpoint, answering_of(self.args))

    def _tasks(self) -> list[str]:
        """The tasks to evaluate.

        Raises:
            ConfigError: a task is not one of the world's.
        """
        known = [*self.world.scores, _READER, *([_PERPLEXITY] if self.offline else [])]
        chosen = self.args.tasks or known
        if unknown := set(chosen) - {*known, _PERPLEXITY, CHAT}:
            raise ConfigError(
                f"unknown tasks {sorted(unknown)}; known: {', '.join((*known, CHAT))}"
            )
        return [task for task in chosen if task in {*known, CHAT}]

    def _rows(self, task: str, start: int, stop: int) -> Iterator[tuple[str, float]]:
        """The scores of some examples of a task."""
        world, seed = self.world, self.args.seed
        lots = [random.Random(f"{_HELD_OUT}/{seed}/{task}/{n}") for n in range(start, stop)]
        if task == _READER:
            for rng in lots:
                yield from world.reader_score(rng)
        elif task == _PERPLEXITY:
            for rng in lots:
                yield "story text, nats a token", self._story_loss(rng)
        elif task == CHAT:
            yield from question_rows(self.answerer, self.untouched, start, stop)
            yield from request_rows(self.answerer, world, lots, start)
        else:
            asked = [world.example(task, rng) for rng in lots]
            for example, answer in zip(asked, self.answerer.answer(asked, start), strict=True):
                yield from world.scores[task](example, answer)

    @torch.no_grad()
    def _story_loss(self, rng: random.Random) -> float:
        """Cross-entropy of a held-out story's text (its exponential is the perplexity)."""
        assert self.offline is not None
        processor, model = self.offline.processor, self.offline.model
        sequence = tokenise(self.world.example("story", rng), processor)
        batch, labels_BL = collate([sequence], processor, learn_prompt=False)
        return float(text_loss(model, model(batch).hidden_BLD, batch, labels_BL))


def _document(
    args: argparse.Namespace, report: ScoreTable, offline: OfflineAnswerer | None
) -> dict[str, object]:
    """The report with the settings that it depends on."""
    return {
        "checkpoint": str(args.checkpoint) if offline else "served",
        "world": args.world,
        "number": args.number,
        "steps": args.steps,
        "guidance": args.guidance,
        "seed": args.seed,
        "without": list(args.without),
        "torch": torch.__version__,
        "scores": report,
    }


def summarise(values: Mapping[str, Sequence[float]]) -> ScoreTable:
    """Mean, number and bootstrapped 95 % interval of every score."""
    generator = np.random.default_rng(0)
    report: ScoreTable = {}
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


def as_table(report: ScoreTable) -> Table:
    """The report as a table for the terminal."""
    table = Table("score", "mean", "95 % interval", "number")
    for name, row in report.items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['mean']:.3f}", interval, str(int(row["number"])))
    return table

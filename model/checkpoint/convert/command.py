"""`mmi convert`: convert between the official checkpoint layout and ours."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from model.checkpoint.convert.from_official import ConvertOptions, convert
from model.checkpoint.convert.to_official import to_official
from model.config.schema import ConfigError

DTYPES = {
    "keep": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", type=Path, help="directory in the official layout")
    parser.add_argument("target", type=Path, help="directory to write; run again to resume")
    parser.add_argument("--to-official", action="store_true", help="convert the other way")
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="format of the weights")
    parser.add_argument("--image-size", type=int, help="resize the vision grid to this size")
    parser.add_argument("--llm", type=Path, help="directory of the language model and tokenizer")
    parser.add_argument("--clip", type=Path, help="directory of the CLIP model")
    parser.add_argument("--sd", type=Path, help="directory of the Stable Diffusion model")
    parser.add_argument("--config", type=Path, help="official YAML, or a config.json of ours")
    parser.add_argument("--no-tokenizer", action="store_true", help="convert weights only")


def run(args: argparse.Namespace) -> int:
    """Convert and show progress; return 1 if the checkpoint is invalid."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("reading keys", total=None)

        def on_progress(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        try:
            if args.to_official:
                to_official(args.source, args.target, on_progress)
            else:
                convert(args.source, args.target, _options(args), on_progress)
        except ConfigError as error:
            console.print(f"error: {error}", style="red", markup=False, highlight=False)
            return 1
    console.print(f"wrote {args.target}", markup=False, highlight=False)
    return 0


def _options(args: argparse.Namespace) -> ConvertOptions:
    named = {"llm": args.llm, "clip": args.clip, "sd": args.sd}
    return ConvertOptions(
        dtype=DTYPES[args.dtype],
        image_size=args.image_size,
        components={kind: path for kind, path in named.items() if path is not None},
        settings=args.config,
        tokenizer=not args.no_tokenizer,
    )

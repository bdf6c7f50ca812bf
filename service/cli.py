"""The command `mmi`: a table of subcommands, each imported only when it is used.

A subcommand is a module with `add_arguments(parser)` and `run(args) -> int`.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from model.config.schema import ConfigError
from service.config import LocalSettings

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("service.commands.local.demo", "run one request on an embedded system, then stop"),
    "serve": ("service.commands.local.serve", "run the whole system on this machine"),
    "generate": ("service.commands.generate", "send text and images, show the answer"),
    "gateway": ("service.commands.roles", "run the gateway alone"),
    "text-worker": ("service.commands.roles", "run a text worker alone"),
    "image-worker": ("service.commands.roles", "run an image worker alone"),
    "autoscaling": ("service.commands.autoscaling", "write the KEDA triggers of the workers"),
    "keys": ("service.commands.keys", "make an API key"),
    "bundle": ("service.commands.bundle.pack", "pack everything for an offline machine"),
    "convert": ("model.checkpoint.convert.command", "convert a checkpoint to safetensors"),
    "plan": ("model.memory.command", "estimate the memory that a checkpoint needs"),
    "compile": ("model.export.command", "compile the image decoder"),
    "train": ("model.training.command", "train a model"),
    "world": ("model.training.world.storybook.command", "fetch and show the storybook world"),
    "eval": ("service.commands.evaluate", "evaluate a checkpoint"),
}
BENCHES: dict[str, tuple[str, str]] = {
    "text": ("model.bench.text.command", "the text engine"),
    "image": ("model.bench.image.command", "the image engine"),
    "sampling": ("model.bench.sampling", "the text synchronizer's kernels"),
    "gateway": ("service.bench.gateway.command", "the gateway's own cost"),
    "redis": ("service.bench.redis.command", "how many stories one Redis carries"),
    "autoscaling": ("service.bench.autoscaling.command", "simulated scaling of the workers"),
    "trace": ("service.bench.trace.command", "where the time of one story goes"),
    "quality": ("service.bench.quality", "the cost of each image quality"),
    "gpu": ("service.bench.gpu.command", "everything that needs a GPU to measure"),
}


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    table: dict[str, tuple[str, str]],
    wanted: str | None,
) -> None:
    """Add a table's subcommands; only the wanted one is imported and gets its arguments."""
    for name, (module_name, text) in table.items():
        parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == wanted:
            module = importlib.import_module(module_name)
            module.add_arguments(parser)
            # Also the default of every `--cache-dir`.
            parser.set_defaults(run=module.run, cache_dir=LocalSettings().cache_dir)


def build_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser for these arguments."""
    parser = argparse.ArgumentParser(prog="mmi", description="Interleaved text and images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = [word for word in arguments if not word.startswith("-")]
    _add(commands, COMMANDS, words[0] if words else None)
    bench = commands.add_parser("bench", help="measure one part of the system")
    kinds = bench.add_subparsers(dest="kind", required=True, metavar="PART")
    _add(kinds, BENCHES, words[1] if len(words) > 1 and words[0] == "bench" else None)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = build_parser(arguments).parse_args(arguments)
    try:
        return int(args.run(args))
    except ConfigError as error:
        sys.stderr.write(f"mmi: {error}\n")
        return 1

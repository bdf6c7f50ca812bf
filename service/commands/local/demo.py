"""`mmi demo`: start everything, answer one request of text and an image, stop everything."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from service.client.example import IMAGE, INTRODUCTION, WISH, example_parts, example_request
from service.client.stream import GatewayClient, RequestRefused
from service.commands.generate import generate
from service.config import LocalSettings
from service.local.embedded_redis import RedisUnavailable
from service.local.processes import RoleFailed, interrupt_once
from service.local.stack import Stack

_TRIES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--checkpoint", type=Path, help="directory; default: a shipped one")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if text streamed and an image was made."""
    console, settings = Console(), LocalSettings()
    interrupt_once()
    started = time.monotonic()
    try:
        stack = Stack(
            args.cache_dir,
            console,
            checkpoint=args.checkpoint or settings.checkpoint,
            redis_url=settings.redis_url,
            environment={"MMI_AUTH": "off"},
        )
        with stack:
            code = _ask(stack.url, args, console)
        console.print(f"all stopped; {time.monotonic() - started:.0f} s in all", highlight=False)
    except (RoleFailed, RedisUnavailable, RequestRefused, TimeoutError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; all stopped")
        return 130
    return code


def _ask(url: str, args: argparse.Namespace, console: Console) -> int:
    client = GatewayClient(url)
    console.print(f"\n[bold]{INTRODUCTION}[/bold] [dim]({IMAGE.name})[/dim]")
    console.print(f"[bold]{WISH}[/bold]\n")
    try:
        # Whether an answer holds an image is the model's own choice; a few seeds are allowed.
        for seed in range(args.seed, args.seed + _TRIES):
            document = example_request(seed, args.steps)
            answer = generate(client, example_parts(), document, args.out, console)
            texts = [p for p in answer.ordered if p["type"] == "text" and p["text"]]
            if texts and answer.images:
                return 0
            console.print(f"[dim](no image with seed {seed})[/dim]")
        console.print(f"No image with {_TRIES} seeds: is this the checkpoint you meant?")
    finally:
        client.close()
    return 1

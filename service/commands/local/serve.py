"""`mmi serve`: the whole system on one machine, until Ctrl-C."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from service.config import LocalSettings
from service.local.embedded_redis import RedisUnavailable
from service.local.processes import RoleFailed, interrupt_once
from service.local.stack import Stack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (0: a free one)")
    parser.add_argument("--checkpoint", type=Path, help="directory; default: a shipped one")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--api-keys", type=Path, help="key file (see mmi keys); none: no keys")


def environment_of(args: argparse.Namespace) -> dict[str, str]:
    """Settings of the roles, from the arguments."""
    if args.api_keys is None:
        return {"MMI_AUTH": "off"}
    return {"MMI_AUTH": "keys", "MMI_API_KEYS_FILE": str(args.api_keys.resolve())}


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    console, settings = Console(), LocalSettings()
    if args.api_keys is None and args.host not in ("127.0.0.1", "localhost", "::1"):
        console.print("[red]Refusing to listen beyond this machine without --api-keys.[/red]")
        return 2
    interrupt_once()
    stack = Stack(
        args.cache_dir,
        console,
        host=args.host,
        port=args.port,
        checkpoint=args.checkpoint or settings.checkpoint,
        redis_url=settings.redis_url,
        environment=environment_of(args),
    )
    try:
        with stack:
            console.print(f"\nready at [bold]{stack.url}[/bold]  (playground; API docs at /docs)")
            console.print(f"stop with Ctrl-C; logs in {stack.logs}", highlight=False)
            stack.watch()
    except KeyboardInterrupt:
        console.print("stopped")
    except (RoleFailed, RedisUnavailable, TimeoutError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    return 0

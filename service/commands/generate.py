"""`mmi generate`: send text and images to a gateway and show the answer while it streams."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from rich.console import Console

from service.client.page import save_answer
from service.client.stream import (
    GatewayClient,
    Given,
    RequestRefused,
    StreamedAnswer,
    content_of,
    read_arguments,
)
from service.client.terminal import TerminalView
from service.config import LocalSettings
from service.workers.checkpoint import choose_checkpoint

_OFFLINE = "model.offline.command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi generate`."""
    parser.add_argument(
        "content", nargs="+", help="in order: text, or image files (@name forces a file)"
    )
    parser.add_argument("--url", help="of the gateway; default: MMI_URL")
    parser.add_argument("--out", type=Path, default=Path("out/generate"))
    parser.add_argument(
        "--offline", action="store_true", help="run the model here, without a service"
    )
    parser.add_argument("--checkpoint", type=Path, help="checkpoint directory (--offline)")
    add_parameters(parser)
    importlib.import_module(_OFFLINE).add_arguments(parser)


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add the parameters of a request; the server, or the offline loop, has its own defaults."""
    parser.add_argument("--max-tokens", type=int, help="text tokens of the whole answer")
    parser.add_argument("--max-images", type=int, help="images of the whole answer")
    parser.add_argument("--n", type=int, default=1, help="independent answers")
    parser.add_argument("--temperature", type=float, help="0: the most probable tokens")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, help="denoising steps of an image")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--only", choices=("text", "image"), help="answer with one kind of part")
    parser.add_argument("--deadline-ms", type=int)


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The request document without its content."""
    image = _given(steps=args.steps, guidance_scale=args.guidance, seed=args.seed)
    document = _given(
        max_tokens=args.max_tokens,
        max_images=args.max_images,
        temperature=args.temperature,
        seed=args.seed,
        deadline_ms=args.deadline_ms,
        image=image or None,
    )
    if args.n != 1:
        document["n"] = args.n
    if args.only:
        document["output_modalities"] = [args.only]
    return document


def _given(**fields: object) -> dict[str, Any]:
    """The fields that are not None: the server's defaults hold for the others."""
    return {name: value for name, value in fields.items() if value is not None}


def generate(
    client: GatewayClient,
    given: list[Given],
    document: dict[str, Any],
    out: Path,
    console: Console,
) -> StreamedAnswer:
    """Send a request, show and save its answer."""
    answer, view = StreamedAnswer(), TerminalView(console)
    for event in client.stream(document):
        answer.add(event)
        view.show(event)
    images, page = save_answer(given, answer, client.image, out)
    for path in (*images, page):
        console.print(f"saved {path}", highlight=False)
    return answer


def run(args: argparse.Namespace) -> int:
    """Generate once; returns 0 if the answer was completed or ended at a limit."""
    console, settings = Console(), LocalSettings()
    if args.offline and args.n != 1:
        console.print("--n needs a service: it does not work with --offline", style="red")
        return 2
    if args.offline:
        given = args.checkpoint or settings.checkpoint
        args.checkpoint = choose_checkpoint(given, settings.cache_dir)
        return int(importlib.import_module(_OFFLINE).run(args))
    client = GatewayClient(args.url or settings.url, settings.api_key)
    try:
        given = read_arguments(args.content)
        document = parameters(args) | {"content": content_of(given)}
        answer = generate(client, given, document, args.out, console)
    except (RequestRefused, ValueError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    finally:
        client.close()
    ended = (answer.end or {}).get("type")
    return 0 if ended in ("response.completed", "response.incomplete") else 1

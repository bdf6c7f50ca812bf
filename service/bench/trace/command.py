"""`mmi bench trace`: run the system, ask for one story, and draw its trace."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from service.bench.trace.collector import Collector, TracedSpan
from service.bench.trace.picture import draw, tree
from service.client.example import example_parts, story_wish
from service.client.stream import GatewayClient, StreamedAnswer, content_of
from service.local.stack import Stack

_EXPORT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench trace`."""
    parser.add_argument("--text", default=story_wish("two"), help="what the user wishes")
    parser.add_argument("--images", type=int, default=2, help="images of the story, at most")
    parser.add_argument("--tokens", type=int, default=120, help="tokens of the story, at most")
    parser.add_argument("--steps", type=int, default=15, help="denoising steps of an image")
    parser.add_argument("--checkpoint", type=Path, help="directory; default: a shipped one")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--out", type=Path, default=Path("out/trace.svg"))


def run(args: argparse.Namespace) -> int:
    """Ask, print the spans, and write the picture."""
    console = Console()
    with Collector() as collector:
        environment = {"MMI_AUTH": "off", "MMI_OTLP_ENDPOINT": collector.endpoint}
        with Stack(
            args.cache_dir, console, checkpoint=args.checkpoint, environment=environment
        ) as stack:
            answer = _ask(stack.url, _document(args))
            spans = collector.wait_for(spans_of_answer(answer), _EXPORT_S)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(draw(spans))
    _print(spans, console)
    console.print(f"drawn in {args.out}", highlight=False)
    return 0


def _document(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "content": content_of(example_parts(args.text)),
        "max_images": args.images,
        "max_tokens": args.tokens,
        "temperature": 0,
        "image": {"steps": args.steps, "seed": 1, "scheduler": "dpmsolver++"},
    }


def _ask(url: str, document: dict[str, Any]) -> StreamedAnswer:
    answer, client = StreamedAnswer(), GatewayClient(url)
    for event in client.stream(document):
        answer.add(event)
    client.close()
    return answer


def spans_of_answer(answer: StreamedAnswer) -> dict[str, int]:
    """Spans that the trace of an answer must have: those of the gateway and of every turn."""
    images = len(answer.images)
    # Text before each image, empty or not, the images, and text at the end.
    ends_with_text = bool(answer.ordered) and answer.ordered[-1]["type"] == "text"
    turns = 2 * images + ends_with_text
    one = {"POST /generate": 1, "admission": 1, "relay": 1, "denoise": images}
    return one | dict.fromkeys(("queue wait", "generate_content mm-interleaved", "commit"), turns)


def _print(spans: list[TracedSpan], console: Console) -> None:
    start = min(span.started_ns for span in spans)
    for depth, span in tree(spans):
        at_s, length_s = (span.started_ns - start) / 1e9, (span.ended_ns - span.started_ns) / 1e9
        line = f"{at_s:8.3f} s {length_s:8.3f} s  {'  ' * depth}{span.name}  ({span.service})"
        console.print(line, highlight=False, markup=False)

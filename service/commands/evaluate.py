"""`mmi eval`: score a checkpoint with the offline engine, or a running system."""

from __future__ import annotations

import argparse
import base64
import importlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from rich.console import Console

from model.segments import RoleSegment
from service.client.stream import GatewayClient, StreamedAnswer
from service.config import LocalSettings

_EVALUATE = "model.training.evaluation.command"
_ANSWERS = "model.training.evaluation.answers"
_EXAMPLE = "model.training.world.example"
_CONCURRENT = 8
_SEEDS_PER_ANSWER = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi eval`."""
    importlib.import_module(_EVALUATE).add_arguments(parser)
    parser.add_argument("--served", metavar="URL", help="evaluate the system behind this gateway")


def run(args: argparse.Namespace) -> int:
    """Evaluate a checkpoint here, or a running system."""
    evaluate = importlib.import_module(_EVALUATE)
    if not args.served:
        return int(evaluate.run(args))
    if args.without:
        Console().print("--without does not work with --served", style="red")
        return 2
    answerer = ServedAnswerer(
        args.served, LocalSettings().api_key, args.steps, args.guidance, args.seed
    )
    return int(evaluate.run(args, answerer))


class ServedAnswerer:
    """Answers examples through the API, with greedy text and images from fixed seeds."""

    def __init__(
        self, url: str, api_key: str | None, steps: int, guidance: float | None, seed: int
    ) -> None:
        self.url, self.api_key = url, api_key
        self.steps, self.guidance, self.seed = steps, guidance, seed

    def answer(self, examples: Sequence[Any], first: int = 0) -> list[Any]:
        """Answer all examples, several at a time."""
        with ThreadPoolExecutor(_CONCURRENT) as pool:
            return list(pool.map(self._answer, examples, range(first, first + len(examples))))

    def _answer(self, example: Any, number: int) -> Any:
        answers = importlib.import_module(_ANSWERS)
        num_images = answers.max_images(example)
        seed = self.seed + _SEEDS_PER_ANSWER * number
        document = {
            "content": [_part(part) for part in example.given],
            "temperature": 0.0,
            "max_tokens": answers.MAX_TOKENS * (num_images + 1),
            "max_images": num_images,
            "seed": seed,
            "image": {
                "steps": self.steps,
                "guidance_scale": self.guidance,
                "scheduler": "dpmsolver++",
                "seed": seed,
            },
        }
        client = GatewayClient(self.url, self.api_key)
        try:
            answer = StreamedAnswer()
            for event in client.stream(document):
                answer.add(event)
            parts = tuple(_read(client, answer.ordered))
        finally:
            client.close()
        ended = (answer.end or {}).get("type") == "response.completed"
        return importlib.import_module(_EXAMPLE).GeneratedAnswer(parts, ended)


def _part(part: Any) -> dict[str, str]:
    """A part of a prompt in the form of the API."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, RoleSegment):
        return {"type": "role", "role": part.role}
    buffer = io.BytesIO()
    part.render().save(buffer, "PNG")
    return {"type": "image", "b64": base64.b64encode(buffer.getvalue()).decode()}


def _read(client: GatewayClient, parts: Iterable[dict[str, Any]]) -> Iterable[str | Image.Image]:
    """The texts and images of an answer."""
    for part in parts:
        if part["type"] != "image":
            yield part["text"]
        elif "sha256" in part:
            yield Image.open(io.BytesIO(client.image(part))).convert("RGB")

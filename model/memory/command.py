"""`mmi plan`: how much memory a model needs, and how many requests fit on a GPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from model.checkpoint.store import load_config
from model.config.presets import PRESETS, preset
from model.memory.plan import GIB, Assumptions, MemoryPlan, plan

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
MIB = 2**20
_UNITS = {"": 1, "k": 2**10, "m": MIB, "g": GIB, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": MIB, "gib": GIB}


def memory_size(text: str) -> int:
    """Bytes of a size such as 80GiB, 40GB or 512M.

    Raises:
        argparse.ArgumentTypeError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 80GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    given = Assumptions()
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=sorted(PRESETS), default="13b")
    source.add_argument("--checkpoint", type=Path, help="directory of a checkpoint")
    parser.add_argument("--gpu", type=memory_size, action="append", help="memory; may be repeated")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--images", type=int, default=given.num_images, help="of a request")
    parser.add_argument("--tokens", type=int, default=given.num_text_tokens, help="of text")
    parser.add_argument("--step-tokens", type=int, default=given.step_tokens, help="in one step")
    parser.add_argument("--reserve", type=memory_size, default=given.reserve_bytes)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    config = load_config(args.checkpoint) if args.checkpoint else preset(args.preset)
    assumptions = Assumptions(
        dtype=DTYPES[args.dtype],
        num_images=args.images,
        num_text_tokens=args.tokens,
        step_tokens=args.step_tokens,
        reserve_bytes=args.reserve,
    )
    made = plan(config, assumptions)
    gpus: list[int] = args.gpu or [24 * GIB, 40 * GIB, 80 * GIB]
    console = Console()
    if args.json:
        console.print_json(json.dumps(as_document(made, gpus)))
        return 0
    for table in (weights_table(made), demand_table(made), capacity_table(made, gpus)):
        console.print(table)
    for line in answers(made, gpus):
        console.print(line, highlight=False)
    return 0


def as_document(made: MemoryPlan, gpus: Sequence[int]) -> dict[str, Any]:
    """The plan as plain JSON types; sizes in bytes."""
    reserve = made.assumptions.reserve_bytes
    return {
        "model": made.config.name,
        "assumptions": dataclasses.asdict(made.assumptions) | {"dtype": _dtype_name(made)},
        "components": [dataclasses.asdict(component) for component in made.components],
        "text": dataclasses.asdict(made.text)
        | {
            "token_bytes": made.text.token.total,
            "request_bytes": made.text.request_bytes,
            "fixed_bytes": made.text.fixed_bytes(reserve),
        },
        "image": dataclasses.asdict(made.image) | {"fixed_bytes": made.image.fixed_bytes(reserve)},
        "official": dataclasses.asdict(made.official),
        "gpus": [
            {
                "bytes": gpu,
                "official_loads": made.official.float32 + reserve <= gpu,
                "requests": max(0, made.text.num_requests(gpu, reserve)),
                "text_worker_fits": made.text.num_requests(gpu, reserve) > 0,
                "pictures": max(0, made.image.num_pictures(gpu, reserve)),
                "image_worker_fits": made.image.num_pictures(gpu, reserve) > 0,
            }
            for gpu in gpus
        ],
    }


def weights_table(made: MemoryPlan) -> Table:
    """Weights per component and worker."""
    table = Table(title=f"Weights of {made.config.name} in {_dtype_name(made)}")
    for name in ("component", "parameters", "size", "text worker", "image worker"):
        table.add_column(name, justify="left" if name == "component" else "right")
    for part in made.components:
        size = _size(part.num_bytes)
        marks = (size if part.text else "", size if part.image else "")
        name = part.name.rpartition(".")[2]
        table.add_row(name, f"{part.num_parameters:,}", size, *marks)
    table.add_section()
    total = sum(part.num_parameters for part in made.components)
    everything = sum(part.num_bytes for part in made.components)
    workers = (_size(made.text.weights), _size(made.image.weights))
    table.add_row("all", f"{total:,}", _size(everything), *workers)
    return table


def demand_table(made: MemoryPlan) -> Table:
    """What requests and images take beside the weights."""
    text, image, given = made.text, made.image, made.assumptions
    token = text.token
    table = Table(title="Beside the weights", show_header=False)
    table.add_column("what")
    table.add_column("size", justify="right")
    rows = {
        "text: keys and values of a token": token.keys_values,
        "text: features of a token (an image's tokens use them)": token.features,
        "text: class and final hidden state of a token": token.token_class + token.hidden_state,
        f"text: an image ({text.tokens_per_image} tokens)": text.tokens_per_image * token.total,
        f"text: a request of {given.num_text_tokens} tokens and {given.num_images} images "
        f"({text.tokens_per_request} tokens)": text.request_bytes,
        f"text: activations of a step of {given.step_tokens} tokens": text.activations,
        "image: what stays the same over the steps, a picture": image.invariants,
        "image: a denoising step with guidance, a picture": image.activations,
        "image: decoding a picture": image.decoding,
        "both: reading an image": image.reading,
        "both: CUDA context, graphs, fragmentation (assumed)": given.reserve_bytes,
    }
    for what, size in rows.items():
        table.add_row(what, _size(size))
    return table


def capacity_table(made: MemoryPlan, gpus: Sequence[int]) -> Table:
    """What fits on each GPU."""
    reserve = made.assumptions.reserve_bytes
    table = Table(title="What fits")
    for name in ("GPU", "requests at once (text worker)", "pictures at once (image worker)"):
        table.add_column(name, justify="right")
    for gpu in gpus:
        requests = made.text.num_requests(gpu, reserve)
        pictures = made.image.num_pictures(gpu, reserve)
        table.add_row(
            _size(gpu), *(str(n) if n > 0 else "does not fit" for n in (requests, pictures))
        )
    return table


def answers(made: MemoryPlan, gpus: Sequence[int]) -> list[str]:
    """Whether the official program loads, and what does."""
    official, reserve = made.official, made.assumptions.reserve_bytes
    lines = [
        f"The official program holds all {official.float32 // 4:,} parameters on one GPU in "
        f"float32: {_size(official.float32)}, before any activation or cache, and about twice "
        f"that in host memory while loading. In half precision, which it does not offer, they "
        f"would be {_size(official.half)}."
    ]
    for gpu in gpus:
        loads = official.float32 + reserve <= gpu
        text, image = made.text.fixed_bytes(reserve), made.image.fixed_bytes(reserve)
        fits = made.text.num_requests(gpu, reserve) > 0
        verdict = "loads" if loads else "does not load"
        ours = (
            f"the text worker fits with {_size(gpu - text)} left for requests"
            if fits
            else f"the text worker needs {_size(text)} before the first request"
        )
        both = gpu - text - image
        shared = (
            f"; text and image worker together leave {_size(both)}"
            if both > made.text.request_bytes
            else ""
        )
        lines.append(f"On {_size(gpu)} the official program {verdict}; here {ours}{shared}.")
    return lines


def _dtype_name(made: MemoryPlan) -> str:
    return str(made.assumptions.dtype).removeprefix("torch.")


def _size(num_bytes: int) -> str:
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    if num_bytes >= MIB:
        return f"{num_bytes / MIB:.1f} MiB"
    return f"{num_bytes / 2**10:.1f} KiB"

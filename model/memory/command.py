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
from model.memory.plan import GIB, Assumptions, MemoryPlan, plan_memory

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MIB = 2**20
_UNITS = {"": 1, "k": 2**10, "m": MIB, "g": GIB, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": MIB, "gib": GIB}


def memory_size(text: str) -> int:
    """Bytes of a size such as 80GiB, 40GB or 512M.

    Raises:
        argparse.ArgumentTypeError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 80GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Assumptions()
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=sorted(PRESETS), default="13b")
    source.add_argument("--checkpoint", type=Path, help="directory of a checkpoint")
    parser.add_argument(
        "--gpu", type=memory_size, action="append", help="memory of a GPU; may be repeated"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument(
        "--images", type=int, default=defaults.num_images, help="images of a request"
    )
    parser.add_argument(
        "--tokens", type=int, default=defaults.num_text_tokens, help="text tokens of a request"
    )
    parser.add_argument(
        "--step-tokens", type=int, default=defaults.step_tokens, help="tokens of one step"
    )
    parser.add_argument(
        "--image-concurrency",
        type=int,
        default=defaults.image_concurrency,
        help="images at a time of an image worker on the same GPU",
    )
    parser.add_argument(
        "--reserve",
        type=memory_size,
        default=defaults.reserve_bytes,
        help="for CUDA context, graphs and fragmentation",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    """`mmi plan`."""
    config = load_config(args.checkpoint) if args.checkpoint else preset(args.preset)
    assumptions = Assumptions(
        dtype=DTYPES[args.dtype],
        num_images=args.images,
        num_text_tokens=args.tokens,
        step_tokens=args.step_tokens,
        image_concurrency=args.image_concurrency,
        reserve_bytes=args.reserve,
    )
    plan = plan_memory(config, assumptions)
    gpus: list[int] = args.gpu or [24 * GIB, 40 * GIB, 80 * GIB]
    console = Console()
    if args.json:
        console.print_json(json.dumps(as_document(plan, gpus)))
        return 0
    for table in (weights_table(plan), demand_table(plan), capacity_table(plan, gpus)):
        console.print(table)
    for line in comparison(plan, gpus):
        console.print(line, highlight=False)
    return 0


def as_document(plan: MemoryPlan, gpus: Sequence[int]) -> dict[str, Any]:
    """The plan as plain JSON types; sizes in bytes."""
    reserve = plan.assumptions.reserve_bytes
    return {
        "model": plan.config.name,
        "assumptions": dataclasses.asdict(plan.assumptions) | {"dtype": _dtype_name(plan)},
        "components": [dataclasses.asdict(component) for component in plan.components],
        "text": dataclasses.asdict(plan.text)
        | {
            "token_bytes": plan.text.token.total,
            "request_bytes": plan.text.request_bytes,
            "fixed_bytes": plan.text.fixed_bytes(reserve),
        },
        "image": {
            "weights": plan.image.weights,
            "invariants": plan.image.conditions,
            "activations": plan.image.activations,
            "decoding": plan.image.decoding,
            "reading": plan.image.reading,
            "fixed_bytes": plan.image.fixed_bytes(reserve),
        },
        "official": dataclasses.asdict(plan.official),
        "gpus": [
            {
                "bytes": gpu,
                "official_loads": plan.official.float32 + reserve <= gpu,
                "requests": max(0, plan.text.num_requests(gpu, reserve)),
                "kv_cache_mib": max(0, plan.text.cache_bytes(gpu, reserve) // MIB),
                "text_worker_fits": plan.text.num_requests(gpu, reserve) > 0,
                "pictures": max(0, plan.image.num_images(gpu, reserve)),
                "image_worker_fits": plan.image.num_images(gpu, reserve) > 0,
            }
            for gpu in gpus
        ],
    }


def weights_table(plan: MemoryPlan) -> Table:
    """Weights per component and worker."""
    table = Table(title=f"Weights of {plan.config.name} in {_dtype_name(plan)}")
    for name in ("component", "parameters", "size", "text worker", "image worker"):
        table.add_column(name, justify="left" if name == "component" else "right")
    for part in plan.components:
        size = _size(part.num_bytes)
        marks = (size if part.text else "", size if part.image else "")
        name = part.name.rpartition(".")[2]
        table.add_row(name, f"{part.num_parameters:,}", size, *marks)
    table.add_section()
    total = sum(part.num_parameters for part in plan.components)
    everything = sum(part.num_bytes for part in plan.components)
    workers = (_size(plan.text.weights), _size(plan.image.weights))
    table.add_row("all", f"{total:,}", _size(everything), *workers)
    return table


def demand_table(plan: MemoryPlan) -> Table:
    """Memory of requests and images, beside the weights."""
    text, image, assumed = plan.text, plan.image, plan.assumptions
    token = text.token
    table = Table(title="Beside the weights", show_header=False)
    table.add_column("what")
    table.add_column("size", justify="right")
    rows = {
        "text: keys and values of a token": token.keys_values,
        "text: features of a token (an image's tokens use them)": token.features,
        "text: class and final hidden state of a token": token.token_class + token.hidden_state,
        f"text: an image ({text.tokens_per_image} tokens)": text.tokens_per_image * token.total,
        f"text: a request of {assumed.num_text_tokens} tokens and {assumed.num_images} images "
        f"({text.tokens_per_request} tokens)": text.request_bytes,
        f"text: activations of a step of {assumed.step_tokens} tokens": text.activations,
        "image: conditions of an image, the same for all steps": image.conditions,
        "image: a denoising step of an image with guidance": image.activations,
        "image: decoding an image": image.decoding,
        "both: encoding an image": image.reading,
        "both: CUDA context, graphs, fragmentation (assumed)": assumed.reserve_bytes,
    }
    for what, size in rows.items():
        table.add_row(what, _size(size))
    return table


def capacity_table(plan: MemoryPlan, gpus: Sequence[int]) -> Table:
    """How much fits on each GPU."""
    reserve = plan.assumptions.reserve_bytes
    table = Table(title="What fits")
    names = ("GPU", "requests at once (text worker)", "MMI_KV_CACHE_MIB", "images at once")
    for name in names:
        table.add_column(name, justify="right")
    for gpu in gpus:
        requests, cache, images = (
            plan.text.num_requests(gpu, reserve),
            plan.text.cache_bytes(gpu, reserve) // MIB,
            plan.image.num_images(gpu, reserve),
        )
        counts = requests, cache, images
        table.add_row(_size(gpu), *(str(n) if n > 0 else "does not fit" for n in counts))
    return table


def comparison(plan: MemoryPlan, gpus: Sequence[int]) -> list[str]:
    """Sentences that say, for each GPU, whether the official program fits, and what does here."""
    official = plan.official
    first = (
        f"The official program holds all {official.float32 // 4:,} parameters on one GPU in "
        f"float32: {_size(official.float32)}, before any activation or cache, and about twice "
        f"that in host memory while loading. In half precision, which it does not offer, they "
        f"would be {_size(official.half)}."
    )
    return [first, *(_comparison_on(plan, gpu) for gpu in gpus)]


def _comparison_on(plan: MemoryPlan, gpu: int) -> str:
    reserve = plan.assumptions.reserve_bytes
    verdict = "loads" if plan.official.float32 + reserve <= gpu else "does not load"
    text, image = plan.text.fixed_bytes(reserve), plan.image.fixed_bytes(reserve)
    if plan.text.num_requests(gpu, reserve) > 0:
        ours = f"the text worker fits with {_size(gpu - text)} left for requests"
    else:
        ours = f"the text worker needs {_size(text)} before the first request"
    left = gpu - text - image - plan.assumptions.image_concurrency * plan.image.image_bytes
    if left > plan.text.request_bytes:
        ours += f"; text and image worker together leave {_size(left)}"
    return f"On {_size(gpu)} the official program {verdict}; here {ours}."


def _dtype_name(plan: MemoryPlan) -> str:
    return str(plan.assumptions.dtype).removeprefix("torch.")


def _size(num_bytes: int) -> str:
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    if num_bytes >= MIB:
        return f"{num_bytes / MIB:.1f} MiB"
    return f"{num_bytes / 2**10:.1f} KiB"

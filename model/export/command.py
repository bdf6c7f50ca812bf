"""`mmi compile`: compiles a checkpoint's image decoder; the cache key names all dependencies."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from model.checkpoint import load, store
from model.config.schema import MMInterleavedConfig
from model.export import onnx, parity, tensorrt
from model.export.graphs import Graph, sampler_graphs
from model.export.manifest import (
    CompiledGraph,
    CompileKey,
    Manifest,
    Precision,
    TensorSpec,
    find,
    graph_digest,
    model_digest,
)
from model.export.tensorrt import Flavour
from model.image_decoder.sampler import ImageSampler
from model.mm_interleaved import IMAGE
from model.synchronizer.kernels.grid import GridSampling

DEFAULT_BUCKETS = (1, 4)
DEFAULT_TARGETS = ("7.5", "8.6", "8.9", "12.0")
EngineBackend = Literal["tensorrt", "onnxruntime"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileOptions:
    """What to compile, and how."""

    backend: EngineBackend = "tensorrt"
    flavour: Flavour = "rtx"
    targets: tuple[str, ...] = DEFAULT_TARGETS
    precision: Precision = "float16"
    buckets: tuple[int, ...] = DEFAULT_BUCKETS
    check_parity: bool = True


def compile_key(options: CompileOptions, digest: str) -> CompileKey:
    """The cache key of a checkpoint compiled with some options."""
    is_tensorrt = options.backend == "tensorrt"
    targets = tensorrt.parse_targets(options.flavour, options.targets) if is_tensorrt else []
    return CompileKey(
        model_digest=digest,
        backend=options.backend,
        flavour=options.flavour if is_tensorrt else "",
        targets=tuple(targets),
        library_version=tensorrt.version(options.flavour) if is_tensorrt else "",
        precision=options.precision,
        buckets=tuple(sorted(options.buckets)),
    )


def load_sampler(
    checkpoint: Path, precision: Precision
) -> tuple[ImageSampler, MMInterleavedConfig]:
    """The image decoder of a checkpoint, with grid sampling, which can be exported."""
    config = store.load_config(checkpoint)
    model = load.load_model(checkpoint, IMAGE, getattr(torch, precision))
    decoder = model.image_decoder
    assert decoder is not None
    decoder.requires_grad_(False)
    return decoder.sampler(GridSampling()), config


def compile_checkpoint(
    checkpoint: Path, directory: Path, options: CompileOptions
) -> tuple[Path, Manifest]:
    """Directory and manifest of a checkpoint's graphs, compiled unless the cache has them."""
    key = compile_key(options, model_digest(checkpoint))
    if (found := find(directory, key)) is not None:
        found[1].verify(found[0])
        return found
    sampler, config = load_sampler(checkpoint, options.precision)
    return compile_sampler(sampler, config, key, directory, options)


def compile_sampler(
    sampler: ImageSampler,
    config: MMInterleavedConfig,
    key: CompileKey,
    directory: Path,
    options: CompileOptions,
) -> tuple[Path, Manifest]:
    """Compile every graph and bucket; the directory appears once all of them are complete."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{key.digest}-", dir=directory))
    entries = {}
    for graph in sampler_graphs(sampler, config, key.buckets):
        started = time.perf_counter()
        path = onnx.export(graph, partial / f"{graph.key}.onnx")
        if options.check_parity:
            runner = parity.onnxruntime_runner(path, graph.output_names)
            measured = parity.compare(graph, runner)
            measured.check()
            logger.info("%s: %s", graph.key, measured)
        outputs = onnx.output_specs(path)
        if options.backend == "tensorrt":
            path = _build_engine(path, key, options.flavour, directory)
        entries[graph.key] = _entry(graph, path, outputs, time.perf_counter() - started)
    manifest = Manifest(key, config.image_decoder.latent_size, entries)
    manifest.save(partial)
    return _publish(partial, directory, manifest)


def _publish(partial: Path, directory: Path, manifest: Manifest) -> tuple[Path, Manifest]:
    """Move complete graphs to their place, unless another process has done so."""
    place = directory / manifest.key.digest
    if (found := find(directory, manifest.key)) is not None:
        shutil.rmtree(partial)
        return found
    shutil.rmtree(place, ignore_errors=True)
    partial.chmod(0o755)
    partial.rename(place)
    return place, manifest


def _build_engine(path: Path, key: CompileKey, flavour: Flavour, directory: Path) -> Path:
    """Compile one ONNX file and delete it."""
    timing_cache = directory / f"timing-{key.library_version}.cache"
    plan = tensorrt.build(path, flavour, key.targets, timing_cache)
    engine_path = path.with_suffix(".engine")
    engine_path.write_bytes(plan)
    for leftover in path.parent.glob(f"{path.stem}.onnx*"):
        leftover.unlink()
    return engine_path


def _entry(
    graph: Graph, path: Path, outputs: tuple[TensorSpec, ...], build_s: float
) -> CompiledGraph:
    """A graph's entry in the manifest; the hash includes the weights beside an ONNX file."""
    return CompiledGraph(
        file=path.name,
        sha256=graph_digest(path),
        num_bytes=sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")),
        build_s=round(build_s, 2),
        inputs=tuple(TensorSpec.of(name, tensor) for name, tensor in graph.inputs.items()),
        outputs=outputs,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--out", type=Path, help="directory of engines; default: in --cache-dir")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt")
    parser.add_argument("--flavour", choices=("rtx", "standard"), default="rtx")
    parser.add_argument(
        "--target",
        default=None,
        help="compute capabilities, such as 8.6,8.9, or current (rtx only)",
    )
    parser.add_argument("--precision", choices=("float16", "bfloat16", "float32"), default=None)
    parser.add_argument("--buckets", default="1,4", help="images per evaluation, such as 1,4")
    parser.add_argument("--no-parity", action="store_true", help="skip the check in ONNX Runtime")


def options_from(arguments: argparse.Namespace) -> CompileOptions:
    is_rtx = arguments.backend == "tensorrt" and arguments.flavour == "rtx"
    asked = tuple(arguments.target.split(",")) if arguments.target else ()
    default: Precision = "float32" if arguments.backend == "onnxruntime" else "float16"
    precision: Precision = arguments.precision or default
    return CompileOptions(
        backend=arguments.backend,
        flavour=arguments.flavour,
        targets=asked or (DEFAULT_TARGETS if is_rtx else ()),
        precision=precision,
        buckets=tuple(int(bucket) for bucket in arguments.buckets.split(",")),
        # ONNX Runtime has no bfloat16 kernels on the CPU.
        check_parity=not arguments.no_parity and precision != "bfloat16",
    )


def run(arguments: argparse.Namespace) -> int:
    """`mmi compile`."""
    console = Console()
    try:
        options = options_from(arguments)
        with console.status("compiling"):
            place, manifest = compile_checkpoint(
                arguments.checkpoint, arguments.out or arguments.cache_dir / "engines", options
            )
    except (tensorrt.LibraryMissing, tensorrt.BuildError, parity.ParityError, ValueError) as error:
        console.print(f"[red]{error}")
        return 1
    for name, graph in manifest.graphs.items():
        console.print(f"{name:12} {graph.num_bytes / 2**20:8.1f} MiB  {graph.build_s:6.1f} s")
    console.print(f"{place}")
    return 0

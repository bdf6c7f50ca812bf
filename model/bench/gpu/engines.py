"""TensorRT on the card at hand: engines of the shipped model against PyTorch's step."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from model.bench.gpu.recorder import Recorder
from model.bench.timing import median_ms
from model.engine.image.backends.base import Backend, BackendUnavailable
from model.engine.image.backends.choice import load_backend
from model.engine.image.options import ImageEngineOptions
from model.export import tensorrt
from model.export.command import CompileOptions, compile_checkpoint
from model.export.parity import ParityError
from model.export.tensorrt import Flavour

_BUCKETS = (1,)
_ROUNDS, _WARM_UP = 30, 5
_FLAVOURS: tuple[Flavour, ...] = ("rtx", "standard")


def run(recorder: Recorder) -> None:
    """Build, compare and time the engines of every installed packaging.

    A rehearsal takes ONNX Runtime's graphs through the same steps, which needs no card.
    """
    if recorder.rehearsal:
        options = CompileOptions("onnxruntime", targets=(), precision="float32", buckets=_BUCKETS)
        _attempt(recorder, "onnxruntime", options)
        return
    for flavour in _FLAVOURS:
        try:
            version = tensorrt.version(flavour)
        except tensorrt.LibraryMissing as error:
            recorder.note("skipped", flavour=flavour, reason=str(error))
            continue
        recorder.note("library", flavour=flavour, version=version)
        targets = ("current",) if flavour == "rtx" else ()
        options = CompileOptions(
            "tensorrt", flavour, targets, "float16", _BUCKETS, check_parity=False
        )
        _attempt(recorder, flavour, options)


def _attempt(recorder: Recorder, name: str, options: CompileOptions) -> None:
    """Whatever fails is a result: which capability a packaging accepts is what is asked."""
    directory = recorder.cache_dir / "engines" / name
    started = time.perf_counter()
    try:
        _, manifest = compile_checkpoint(recorder.checkpoint, directory, options)
        built_s = time.perf_counter() - started
        sizes = {key: round(graph.num_bytes / 2**20, 1) for key, graph in manifest.graphs.items()}
        recorder.note("built", flavour=name, seconds=round(built_s, 1), mib=sizes)
        _compare(recorder, name, options, directory)
    except (
        tensorrt.BuildError,
        BackendUnavailable,
        ParityError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        recorder.note("failed", flavour=name, error=repr(error)[:800])


def _compare(recorder: Recorder, name: str, options: CompileOptions, directory: Path) -> None:
    device = "cpu" if recorder.rehearsal else "cuda"
    ours = ImageEngineOptions(
        recorder.checkpoint,
        backend=options.backend,
        device=device,
        dtype=options.precision,
        engines=directory,
        fallback=False,
    )
    steps: dict[str, tuple[torch.Tensor, float]] = {}
    for backend_name in (options.backend, "torch"):
        backend, _ = load_backend(replace(ours, backend=backend_name))
        steps[backend_name] = _step(backend)
        backend.stop()
    (engine, engine_ms), (eager, eager_ms) = steps.values()
    recorder.note(
        "engine",
        flavour=name,
        ms=round(engine_ms, 3),
        torch_ms=round(eager_ms, 3),
        difference=float(f"{(engine - eager).norm() / eager.norm():.3g}"),
    )


def _step(backend: Backend) -> tuple[torch.Tensor, float]:
    """The prediction of a guided step of one image on the host, and its median time in ms."""
    decoder, generator = backend.config.image_decoder, torch.Generator().manual_seed(0)
    perceiver, side = decoder.perceiver, decoder.latent_size
    tokens = torch.randn(1, perceiver.num_queries, perceiver.hidden_size, generator=generator)
    shape = (1, int(decoder.unet["in_channels"]), side, side)
    device = torch.device(backend.capabilities.device)
    latents = torch.randn(shape, generator=generator).to(device)
    timesteps = torch.full((1,), 500, device=device)
    predict = backend.join([backend.prepare(tokens, None)], guided=True)
    prediction = predict(latents, timesteps).float().cpu()
    time_ms = median_ms(
        lambda: predict(latents, timesteps), device, warm_up=_WARM_UP, rounds=_ROUNDS
    )
    return prediction, time_ms

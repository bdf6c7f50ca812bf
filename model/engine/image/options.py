"""How to run the image engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.sampling_params import MAX_STEPS

BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]


@dataclass(frozen=True)
class ImageEngineOptions:
    """How to run the image engine.

    Attributes:
        checkpoint: directory of the model.
        backend: library that evaluates the networks; `auto` takes the fastest that fits.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        max_batch: images in one evaluation at most.
        memory_mib: for unfinished images, beside the weights; 0: what a GPU has left but for 1 GiB,
            a quarter of a host's free memory.
        cache_mib: for maps of conditioning images.
        max_steps: denoising steps an image may ask for.
        max_area: largest image, as a multiple of the checkpoint's own area.
        compiled: let torch.compile compile the blocks of `torch`'s step, while the engine serves.
        warm_up: numbers of images of which steps are made ready, and compiled.
        compile_cache: directory for the code of compiled blocks.
        engines: directory of compiled graphs (`mmi compile`).
        fallback: use `torch` where the chosen backend can't run; else refuse to start.
    """

    checkpoint: Path
    backend: BackendName = "torch"
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 8
    memory_mib: int = 0
    cache_mib: int = 256
    max_steps: int = MAX_STEPS
    max_area: float = 1.0
    compiled: bool = False
    warm_up: tuple[int, ...] = (1,)
    compile_cache: Path = Path(".build/compiled")
    engines: Path = Path(".build/engines")
    fallback: bool = True

"""Compiled code on disk, under a name that hashes whatever the code depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import diffusers
import torch

from model.config.schema import MMInterleavedConfig
from model.image_decoder.unet import step, token_grid
from model.synchronizer import folding
from model.synchronizer.kernels import grid

# Their code is what gets compiled; diffusers' counts by its version.
_SOURCES: tuple[ModuleType, ...] = (step, token_grid, folding, grid)
_HASH_BYTES = hashlib.sha256().digest_size
logger = logging.getLogger(__name__)


class CompileCache:
    """What torch.compile has generated for one model's sizes on one kind of device.

    Weights don't enter: checkpoints of the same sizes share it. A file is its SHA-256 and the
    artifacts of `torch.compiler`, which executes them, so the directory must be as well guarded
    as the program itself.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.path = directory / f"blocks-{key}.bin"

    def load(self) -> bool:
        """Hand what is kept to PyTorch; False if there is nothing usable."""
        if not self.path.is_file():
            return False
        data = self.path.read_bytes()
        digest, artifacts = data[:_HASH_BYTES], data[_HASH_BYTES:]
        if hashlib.sha256(artifacts).digest() != digest:
            logger.warning("%s is damaged: compiling again", self.path)
            return False
        return torch.compiler.load_cache_artifacts(artifacts) is not None

    def save(self) -> None:
        """Keep what this process has compiled; an error of the disk is only logged."""
        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return
        artifacts = saved[0]
        partial = self.path.with_suffix(f".{id(self)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(hashlib.sha256(artifacts).digest() + artifacts)
            partial.replace(self.path)
        except OSError as error:
            logger.warning("compiled code is not kept: %s", error)


def cache_key(
    config: MMInterleavedConfig, device: torch.device, dtype: torch.dtype, buckets: Sequence[int]
) -> str:
    """Hash of code, sizes, number type, buckets, versions and device."""
    document = {
        "sources": [inspect.getsource(module) for module in _SOURCES],
        "image_decoder": asdict(config.image_decoder),
        "map_sizes": config.vision.map_sizes,
        "dtype": str(dtype),
        "buckets": sorted(buckets),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": _device_name(device),
    }
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    return f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"

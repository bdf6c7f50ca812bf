"""What a phase has learned, as a file that later runs on other machines start with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint.load import STORED_FLOAT32_PREFIXES
from model.checkpoint.packaged.base_model import BASES, is_base_tensor
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.training.objectives.decoder.autoencoder import scale_latents

_SCALING = "scaling_factor"


def own_tensors(model: MMInterleaved) -> dict[str, Tensor]:
    """All tensors of a model but those of a packaged language model."""
    has_base = model.config.name in BASES
    state = model.state_dict().items()
    return {name: x for name, x in state if not (has_base and is_base_tensor(name))}


def save_parts(model: MMInterleaved, before: Mapping[str, Tensor], path: Path) -> None:
    """Write the tensors that differ from those `before`, and the latents' scale.

    They are in float16, except for those whose values need float32.
    """
    changed = {
        name: (tensor if name.startswith(STORED_FLOAT32_PREFIXES) else tensor.half()).contiguous()
        for name, tensor in own_tensors(model).items()
        if not torch.equal(tensor, before[name])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(changed, path, {_SCALING: str(model.config.image_decoder.vae[_SCALING])})


def load_parts(model: MMInterleaved, paths: Iterable[Path]) -> None:
    """Copy the tensors of some files into a model, one file after the other.

    Raises:
        ConfigError: the model has no such tensor, or one of another shape.
    """
    for path in paths:
        with safe_open(path, "pt") as parts:
            names = parts.keys()
            copy_tensors(((name, parts.get_tensor(name)) for name in names), model, path)
            scale_latents(model, float(parts.metadata()[_SCALING]))


@torch.no_grad()
def copy_tensors(
    tensors: Iterable[tuple[str, Tensor]], model: MMInterleaved, source: Path
) -> set[str]:
    """Copy named tensors of a `source` into a model, and return their names.

    Raises:
        ConfigError: the model has no such tensor, or one of another shape.
    """
    own, copied = model.state_dict(), set()
    for name, tensor in tensors:
        if name not in own or own[name].shape != tensor.shape:
            raise ConfigError(f"{source} does not fit {model.config.name!r}: {name}")
        own[name].copy_(tensor)
        copied.add(name)
    return copied

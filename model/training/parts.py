"""What a phase has learned, as a file that later runs on other machines start with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint.packaged.base_model import BASES, is_base_tensor
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.training.objectives.autoencoder import scale_latents

_SCALING = "scaling_factor"


def own_tensors(model: MMInterleaved) -> dict[str, Tensor]:
    """All tensors of a model but those of a packaged language model."""
    has_base = model.config.name in BASES
    state = model.state_dict().items()
    return {name: x for name, x in state if not (has_base and is_base_tensor(name))}


def save_parts(model: MMInterleaved, before: Mapping[str, Tensor], path: Path) -> None:
    """Write the tensors that differ from those `before`, in float16, and the latents' scale."""
    changed = {
        name: tensor.half().contiguous()
        for name, tensor in own_tensors(model).items()
        if not torch.equal(tensor, before[name])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(changed, path, {_SCALING: str(model.config.image_decoder.vae[_SCALING])})


@torch.no_grad()
def load_parts(model: MMInterleaved, paths: Iterable[Path]) -> None:
    """Copy the tensors of some files into a model, one file after the other.

    Raises:
        ConfigError: the model has no such tensor, or one of another shape.
    """
    own = model.state_dict()
    for path in paths:
        with safe_open(path, "pt") as parts:
            for name in parts.keys():  # noqa: SIM118
                tensor = parts.get_tensor(name)
                if name not in own or own[name].shape != tensor.shape:
                    raise ConfigError(f"{path} does not fit {model.config.name!r}: {name}")
                own[name].copy_(tensor)
            scale_latents(model, float(parts.metadata()[_SCALING]))

"""A low-rank update of a packaged language model, in a file beside the other trained tensors.

update.safetensors    float16; for each changed matrix W [O, I] of the language model
    W.down            [R, I]
    W.up              [O, R]; reading the checkpoint yields W + up down
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import store

FILE = "update.safetensors"
_DOWN, _UP = ".down", ".up"


@dataclass(frozen=True)
class Factors:
    """An update of a matrix as two factors, applied as `up_OR @ down_RI`."""

    down_RI: Tensor
    up_OR: Tensor

    @property
    def change_OI(self) -> Tensor:
        """What the update adds to its matrix, float32."""
        return self.up_OR.float() @ self.down_RI.float()

    def added_to(self, weight_OI: Tensor) -> Tensor:
        """The updated matrix, in the type of the given one."""
        return (weight_OI.float() + self.change_OI).to(weight_OI.dtype)


Update = Mapping[str, Factors]


def load_update(directory: Path | str | None) -> Update:
    """The update of a checkpoint; empty if it has none, or if there is no checkpoint."""
    path = Path(directory) / FILE if directory is not None else None
    if path is None or not path.is_file():
        return {}
    tensors = load_file(path)
    names = (name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN))
    return {name: Factors(tensors[name + _DOWN], tensors[name + _UP]) for name in names}


def save_update(update: Update, directory: Path) -> None:
    """Write an update into a checkpoint's directory; an empty one leaves no file."""
    if not update:
        (directory / FILE).unlink(missing_ok=True)
        return
    tensors: dict[str, Tensor] = {}
    for name, factors in update.items():
        tensors[name + _DOWN] = factors.down_RI.half().contiguous()
        tensors[name + _UP] = factors.up_OR.half().contiguous()
    store.save_tensors(tensors, directory / FILE)

"""Files of tensors: official `.bin` shards read lazily, safetensors written as a stream."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from model.checkpoint.store import CheckpointError

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorEntry:
    """A tensor to be written: name, type, shape, and a function that reads its values."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def read_bin(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` shard, mapped into memory where its format allows.

    Raises:
        CheckpointError: the file holds something other than tensors, or is damaged.
    """
    try:
        state = _load(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a file of plain tensors ({reason})") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dictionary")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise CheckpointError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor")
    return dict(state)


def _load(path: Path) -> object:
    """Unpickle tensors only; files older than torch 1.6 cannot be mapped and are read whole."""
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)


def read_weights(path: Path) -> Mapping[str, Callable[[], torch.Tensor]]:
    """Readers of the tensors of a `.bin` or `.safetensors` file, by key."""
    if path.suffix == ".bin":
        tensors = read_bin(path)
        return {key: lambda t=tensor: t for key, tensor in tensors.items()}  # type: ignore[misc]
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    return {key: lambda k=key: _read_one(path, k) for key in keys}  # type: ignore[misc]


def _read_one(path: Path, key: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(key)
    return tensor


def write_safetensors(
    path: Path, entries: Sequence[TensorEntry], on_bytes: Callable[[int], None]
) -> str:
    """Write tensors one after the other, holding one at a time; the file appears when complete.

    Returns:
        The sha256 of the file.
    """
    ordered = sorted(entries, key=lambda e: (-e.dtype.itemsize, e.name))
    header = _header(ordered)
    digest = hashlib.sha256(header)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(header)
        for entry in ordered:
            values = _bytes_of(entry).data
            digest.update(values)
            file.write(values)
            on_bytes(entry.num_bytes)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return digest.hexdigest()


def _header(entries: Sequence[TensorEntry]) -> bytes:
    """The length and the JSON that open a safetensors file."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        stop = offset + entry.num_bytes
        table[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _bytes_of(entry: TensorEntry) -> NDArray[np.uint8]:
    tensor = entry.read().to(entry.dtype)
    if tuple(tensor.shape) != entry.shape:
        raise CheckpointError(f"{entry.name}: shape {list(tensor.shape)} changed while reading")
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()

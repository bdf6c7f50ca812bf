"""Keys and contents of the cache of compiled graphs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor

from model.checkpoint.store import sha256_of

MANIFEST = "manifest.json"
# Increase it when the exported graphs change, so that all graphs compiled before become stale.
FORMAT = 2
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class CompileKey:
    """Everything that a compiled graph depends on.

    Attributes:
        model_digest: of the checkpoint's configuration and weights.
        backend: `onnxruntime` or `tensorrt`.
        flavour: packaging of TensorRT; empty for others.
        targets: compute capabilities; none means those of the building machine.
        library_version: of the library that compiles or runs the graphs.
        precision: number type of the U-Net.
        buckets: numbers of images.
        format: `FORMAT` at the time.
    """

    model_digest: str
    backend: str
    flavour: str
    targets: tuple[str, ...]
    library_version: str
    precision: Precision
    buckets: tuple[int, ...]
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """The directory's name."""
        document = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of a graph's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Self:
        """The specification of an example tensor."""
        return cls(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@dataclass(frozen=True)
class CompiledGraph:
    """One compiled file, with its weights beside it if it is an ONNX graph."""

    file: str
    sha256: str
    num_bytes: int
    build_s: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Manifest:
    """A complete set of compiled graphs."""

    key: CompileKey
    latent_size: int
    graphs: dict[str, CompiledGraph]

    def save(self, directory: Path) -> None:
        """Write the manifest, last of all: a directory without it is incomplete."""
        document = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (directory / MANIFEST).write_text(document)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a manifest that `save` wrote."""
        document: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        key = document["key"]
        key |= {"targets": tuple(key["targets"]), "buckets": tuple(key["buckets"])}
        graphs = {name: _graph(entry) for name, entry in document["graphs"].items()}
        return cls(CompileKey(**key), document["latent_size"], graphs)

    def verify(self, directory: Path) -> None:
        """Check every file against its hash.

        Raises:
            ValueError: naming the file that is missing or changed.
        """
        for graph in self.graphs.values():
            path = directory / graph.file
            if not path.is_file() or graph_digest(path) != graph.sha256:
                raise ValueError(f"{path} is missing or not what was compiled")


def _graph(entry: dict[str, Any]) -> CompiledGraph:
    """A graph's entry from plain JSON."""
    for side in ("inputs", "outputs"):
        entry[side] = tuple(
            TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in entry[side]
        )
    return CompiledGraph(**entry)


def graph_digest(path: Path) -> str:
    """SHA-256 of a compiled graph and of the weights beside it."""
    parts = [sha256_of(part) for part in sorted(path.parent.glob(f"{path.name}*"))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def model_digest(checkpoint: Path) -> str:
    """A digest of a checkpoint's configuration and weights."""
    whole = hashlib.sha256((checkpoint / "config.json").read_bytes())
    for path in sorted(checkpoint.glob("*.safetensors")):
        whole.update(f"{path.name}:{sha256_of(path)}".encode())
    return whole.hexdigest()


def find(directory: Path, key: CompileKey) -> tuple[Path, Manifest] | None:
    """The complete graphs of a key in a cache directory."""
    place = directory / key.digest
    if not (place / MANIFEST).is_file():
        return None
    manifest = Manifest.load(place)
    return (place, manifest) if manifest.key == key else None

"""Convert the official checkpoint layout to ours, shard by shard.

All keys are compared with the configuration before anything is written. Then each input shard
becomes one output file, which appears when it is complete; a journal lets a killed conversion
resume. One tensor at a time is copied out of the memory-mapped shard.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from model.checkpoint import load, store
from model.checkpoint.convert import adapter
from model.checkpoint.convert.journal import Journal, OnProgress
from model.checkpoint.convert.official.layout import OfficialLayout, find_layout
from model.checkpoint.convert.official.sizes import derive_config
from model.checkpoint.convert.shards import TensorEntry, read_weights, write_safetensors
from model.checkpoint.store import CheckpointError
from model.checkpoint.tokenizer import load_official_tokenizer
from model.config.schema import MMInterleavedConfig

logger = logging.getLogger(__name__)

# Tables of the vision grid, which depend on the image size.
_GRID_TABLES = (adapter.POSITION_EMBEDDING, "visual_tokenizer.pos_embed")


@dataclass(frozen=True)
class ConvertOptions:
    """`dtype` None keeps the stored types; `image_size` resizes the vision grid."""

    dtype: torch.dtype | None = None
    image_size: int | None = None
    components: Mapping[str, Path] = field(default_factory=dict)
    settings: Path | None = None
    tokenizer: bool = True


@dataclass(frozen=True)
class SourceTensor:
    """A tensor as it lies in an official file; `path` None means it is computed."""

    path: Path | None
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def convert(
    source: Path, target: Path, options: ConvertOptions, on_progress: OnProgress
) -> MMInterleavedConfig:
    """Convert an official checkpoint directory into one of ours, or resume.

    Raises:
        CheckpointError: keys are unknown or missing, or files are not what they should be.
    """
    layout = find_layout(source, options.components, options.settings)
    found = survey(layout.shards)
    config = _configure(found, layout, options)
    tokenizer = None
    if options.tokenizer:
        if "llm" not in layout.components:
            raise CheckpointError("no language model directory with a tokenizer: name it")
        tokenizer = load_official_tokenizer(layout.components["llm"], config)
    tensors = _complete(found, layout, config)
    target.mkdir(parents=True, exist_ok=True)
    hashes = _write(tensors, layout, target, config, options, on_progress)
    config.save(target / store.CONFIG)
    if tokenizer is not None:
        store.save_tokenizer(tokenizer, target)
    store.write_manifest(target, hashes)
    return config


def survey(shards: Sequence[Path]) -> dict[str, SourceTensor]:
    """The tensors of official shards, by our names; one shard at a time is open.

    Raises:
        CheckpointError: two shards hold the same key.
    """
    found: dict[str, SourceTensor] = {}
    for path in shards:
        for key, read in read_weights(path).items():
            if (name := adapter.to_ours(key)) is None:
                logger.info("leaving out %s", key)
                continue
            if name in found:
                raise CheckpointError(f"{key} is both in {found[name].path} and in {path}")
            tensor = read()
            found[name] = SourceTensor(path, key, tuple(tensor.shape), tensor.dtype)
    return found


def _configure(
    found: dict[str, SourceTensor], layout: OfficialLayout, options: ConvertOptions
) -> MMInterleavedConfig:
    """The configuration; another image size also changes the shapes in `found`."""
    config = derive_config({name: tensor.shape for name, tensor in found.items()}, layout)
    if options.image_size is None or options.image_size == config.vision.image_size:
        return config
    old_grid = config.vision.grid_size
    vision = dataclasses.replace(config.vision, image_size=options.image_size)
    grid = vision.grid_size
    sides = tuple(side * grid // old_grid for side in config.spatial_shapes)
    for name in _GRID_TABLES:
        shape = (grid * grid + 1, found[name].shape[1])
        found[name] = dataclasses.replace(found[name], shape=shape)
    found.pop(adapter.POSITION_IDS, None)
    return dataclasses.replace(config, vision=vision, spatial_shapes=sides)


def _complete(
    found: Mapping[str, SourceTensor], layout: OfficialLayout, config: MMInterleavedConfig
) -> dict[str, SourceTensor]:
    """The tensors found, plus those that components hold or the model computes."""
    expected = expected_shapes(config)
    lacking = set(expected) - set(found)
    elsewhere = _in_components(layout, lacking) if lacking else {}
    missing = adapter.check_keys({k: t.shape for k, t in found.items()}, expected, elsewhere)
    tensors = dict(found)
    for name in missing:
        if name in elsewhere:
            tensors[name] = elsewhere[name]
            logger.info("taking %s from %s", name, elsewhere[name].path)
        else:
            value = adapter.DERIVED[name](config)
            tensors[name] = SourceTensor(None, name, tuple(value.shape), value.dtype)
    adapter.check_keys({k: t.shape for k, t in tensors.items()}, expected)
    return tensors


def expected_shapes(config: MMInterleavedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a configuration, without allocating them."""
    from model.mm_interleaved import MMInterleaved

    with torch.device("meta"):
        state = MMInterleaved(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _in_components(layout: OfficialLayout, names: set[str]) -> dict[str, SourceTensor]:
    """The tensors of these names that the component directories hold."""
    found: dict[str, SourceTensor] = {}
    for component in {owner[0] for name in names if (owner := adapter.component_key(name))}:
        for path in layout.component_weights(component):
            for key, read in read_weights(path).items():
                name = adapter.component_name(component, key)
                if name in names:
                    tensor = read()
                    found[name] = SourceTensor(path, key, tuple(tensor.shape), tensor.dtype)
    return found


def _write(
    tensors: Mapping[str, SourceTensor],
    layout: OfficialLayout,
    target: Path,
    config: MMInterleavedConfig,
    options: ConvertOptions,
    on_progress: OnProgress,
) -> dict[str, str]:
    """Write one file per shard and one for all other tensors; returns their hashes."""
    groups: list[tuple[Path | None, list[str]]] = [
        (path, [name for name, tensor in tensors.items() if tensor.path == path])
        for path in layout.shards
    ]
    if extra := [name for name, tensor in tensors.items() if tensor.path not in layout.shards]:
        groups.append((None, extra))
    journal = Journal.open(target, {"config": config.to_dict(), "dtype": str(options.dtype)})
    files = [store.shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    meter = _Meter(tensors, options, on_progress)
    hashes: dict[str, str] = {}
    for file_name, (path, names) in zip(files, groups, strict=True):
        meter.begin(file_name)
        sha256 = journal.finished(file_name, path)
        if sha256 is None:
            entries = _entries({name: tensors[name] for name in names}, config, options)
            sha256 = write_safetensors(target / file_name, entries, meter.add)
            journal.record(file_name, path, sha256)
        else:
            meter.add(sum(_num_bytes(name, tensors[name], options) for name in names))
        hashes[file_name] = sha256
    if len(files) > 1:
        where = {
            name: file for file, (_, names) in zip(files, groups, strict=True) for name in names
        }
        store.write_index(target, where, meter.total)
    return hashes


class _Meter:
    """Counts bytes written and reports them."""

    def __init__(
        self, tensors: Mapping[str, SourceTensor], options: ConvertOptions, report: OnProgress
    ) -> None:
        self.total = sum(_num_bytes(name, tensor, options) for name, tensor in tensors.items())
        self._done = 0
        self._file = ""
        self._report = report

    def begin(self, file_name: str) -> None:
        """Report the next file."""
        self._file = file_name
        self._report(file_name, self._done, self.total)

    def add(self, num_bytes: int) -> None:
        """Report that more bytes are done."""
        self._done += num_bytes
        self._report(self._file, self._done, self.total)


def _entries(
    tensors: Mapping[str, SourceTensor], config: MMInterleavedConfig, options: ConvertOptions
) -> list[TensorEntry]:
    """Tensors ready to be written; each file that they come from is opened once."""
    readers = {
        path: read_weights(path) for path in {t.path for t in tensors.values()} if path is not None
    }
    entries: list[TensorEntry] = []
    for name, tensor in tensors.items():
        read: Callable[[], torch.Tensor]
        if tensor.path is None:
            read = partial(adapter.DERIVED[name], config)
        else:
            read = readers[tensor.path][tensor.key]
        if name in _GRID_TABLES:
            read = partial(_resized, read, config.vision.grid_size)
        entries.append(TensorEntry(name, _dtype(name, tensor, options), tensor.shape, read))
    return entries


def _resized(read: Callable[[], torch.Tensor], grid: int) -> torch.Tensor:
    return adapter.resize_position_embedding(read(), grid)


def _dtype(name: str, tensor: SourceTensor, options: ConvertOptions) -> torch.dtype:
    if options.dtype is None:
        return tensor.dtype
    return load.serving_dtype(name, tensor.dtype, options.dtype)


def _num_bytes(name: str, tensor: SourceTensor, options: ConvertOptions) -> int:
    return _dtype(name, tensor, options).itemsize * torch.Size(tensor.shape).numel()

"""A checkpoint is a directory: JSON configuration, safetensors, a tokenizer, and a manifest.

    config.json                        MMInterleavedConfig
    model.safetensors                  all tensors under their official names, or, sharded,
    model-00001-of-0000N.safetensors   ... with model.safetensors.index.json
    tokenizer.json                     a `tokenizers` tokenizer
    tokenizer_config.json              its settings for transformers; with `chat_template` prompts
                                       follow the language model's chat template
    base.json                          only where the language model is a package's (`base_model`)
    update.safetensors                 low-rank updates of a package's tensors (`low_rank`)
    manifest.json                      size and sha256 of every other file

Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from model.config.schema import ConfigError, MMInterleavedConfig

if TYPE_CHECKING:
    from model.mm_interleaved import MMInterleaved

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MANIFEST = "manifest.json"
BASE = "base.json"
CHAT_TEMPLATE = "chat_template"


class CheckpointError(ConfigError):
    """A checkpoint directory is incomplete, damaged, or of another shape than its configuration."""


def load_config(directory: Path | str) -> MMInterleavedConfig:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: the directory holds none.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} is no checkpoint: it has no {CONFIG}")
    return MMInterleavedConfig.load(path)


def load_tokenizer(directory: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint."""
    directory = Path(directory)
    settings = json.loads((directory / TOKENIZER_CONFIG).read_text())
    tokens = {k: v for k, v in settings.items() if k.endswith("_token") and isinstance(v, str)}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(directory / TOKENIZER),
        clean_up_tokenization_spaces=False,
        chat_template=settings.get(CHAT_TEMPLATE),
        **tokens,
    )


def weight_map(directory: Path | str) -> dict[str, str]:
    """Which file of a checkpoint holds each tensor.

    Raises:
        CheckpointError: the directory holds no weights.
    """
    directory = Path(directory)
    if (index := directory / INDEX).is_file():
        return json.loads(index.read_text())["weight_map"]
    if not (directory / WEIGHTS).is_file():
        raise CheckpointError(f"{directory} has neither {WEIGHTS} nor {INDEX}")
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        return dict.fromkeys(file.keys(), WEIGHTS)


def shard_name(number: int, total: int) -> str:
    """The name of the `number`-th of `total` weight files, counted from one."""
    return WEIGHTS if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"


def write_index(directory: Path, where: Mapping[str, str], total_bytes: int) -> None:
    """Write the index of a sharded checkpoint: which file holds each tensor."""
    document = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(where.items()))}
    (directory / INDEX).write_text(json.dumps(document, indent=2) + "\n")


def save_model(
    model: MMInterleaved,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path | str,
    is_kept: Callable[[str], bool] = lambda name: True,
) -> None:
    """Write a checkpoint directory with one weights file of the tensors that `is_kept` selects."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
        if is_kept(name)
    }
    save_tensors(tensors, directory / WEIGHTS)
    model.config.save(directory / CONFIG)
    save_tokenizer(tokenizer, directory)
    write_manifest(directory)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a file of tensors that workers of any user can read."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors creates files that only their owner can read.


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a tokenizer's two files."""
    tokenizer.backend_tokenizer.save(str(directory / TOKENIZER), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
    }
    if tokenizer.chat_template:
        settings[CHAT_TEMPLATE] = tokenizer.chat_template
    (directory / TOKENIZER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def write_manifest(directory: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the manifest, which marks the directory complete; `known` holds hashes by file name."""
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": (known or {}).get(path.name) or sha256_of(path),
        }
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n")


def verify(directory: Path | str) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    directory = Path(directory)
    files = json.loads((directory / MANIFEST).read_text())["files"]
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            raise CheckpointError(f"{path} differs from the manifest")


def sha256_of(path: Path) -> str:
    """The hash of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

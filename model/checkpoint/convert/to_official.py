"""Convert a checkpoint of ours to the official layout, shard by shard.

Weights become `pytorch_model*.bin` under `weights/`. Configurations and tokenizer, which the
official code reads from component directories, go to `assets/`, so that the result can be converted
again without naming any directory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from model.checkpoint import store
from model.checkpoint.convert.journal import Journal, OnProgress
from model.checkpoint.convert.official.layout import SETTINGS
from model.config.schema import ImageDecoderConfig, MMInterleavedConfig

WEIGHTS_DIRECTORY = "weights"
COMPONENTS_DIRECTORY = "assets"

_LLM_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "tie_word_embeddings",
)
_VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "image_size",
    "patch_size",
    "layer_norm_eps",
)


def to_official(source: Path, target: Path, on_progress: OnProgress) -> None:
    """Write the official layout of a checkpoint of ours, or resume.

    Raises:
        CheckpointError: the source is no checkpoint, or has options that the official code lacks.
    """
    config = store.load_config(source)
    if unknown := _unknown_options(config.image_decoder):
        raise store.CheckpointError(f"the official image decoder has no {', '.join(unknown)}")
    by_file: dict[str, list[str]] = {}
    for name, file_name in store.weight_map(source).items():
        by_file.setdefault(file_name, []).append(name)
    weights = target / WEIGHTS_DIRECTORY
    weights.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(weights, {"config": config.to_dict()})
    total = sum((source / name).stat().st_size for name in by_file)
    where: dict[str, str] = {}
    done = 0
    for number, (file_name, names) in enumerate(sorted(by_file.items()), start=1):
        shard = bin_name(number, len(by_file))
        on_progress(shard, done, total)
        if journal.finished(shard, source / file_name) is None:
            sha256 = _write_bin(source / file_name, names, weights / shard)
            journal.record(shard, source / file_name, sha256)
        where |= dict.fromkeys(names, shard)
        done += (source / file_name).stat().st_size
        on_progress(shard, done, total)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (weights / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    _write_components(source, target / COMPONENTS_DIRECTORY, config)
    config.save(target / SETTINGS[0])
    store.write_manifest(weights)


def _unknown_options(decoder: ImageDecoderConfig) -> list[str]:
    """The options of an image decoder that the official code does not have."""
    options = {
        "token_grid": decoder.token_grid,
        "guide_maps": decoder.guide_maps,
        "anchored": decoder.anchored,
        "codebook": decoder.perceiver.codebook is not None,
    }
    return [name for name, is_set in options.items() if is_set]


def bin_name(number: int, total: int) -> str:
    """The name of the `number`-th of `total` official weight files, counted from one."""
    return "pytorch_model.bin" if total == 1 else f"pytorch_model-{number:05d}-of-{total:05d}.bin"


def _write_bin(source: Path, names: list[str], path: Path) -> str:
    """Write one shard; it appears when it is complete. Returns its sha256."""
    partial = path.with_name(f".{path.name}.partial")
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    with partial.open("wb") as out:
        torch.save(tensors, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
    return store.sha256_of(path)


def _write_components(source: Path, assets: Path, config: MMInterleavedConfig) -> None:
    """Configurations and tokenizer as the components' own directories hold them."""
    decoder = config.image_decoder
    vision = {"vision_config": _pick(config.vision, _VISION_KEYS)}
    _write_json(assets / "llm/config.json", _language_model_document(config))
    _write_json(assets / "clip/config.json", {"model_type": "clip"} | vision)
    _write_json(assets / "sd/unet/config.json", dict(decoder.unet))
    _write_json(assets / "sd/vae/config.json", dict(decoder.vae))
    _write_json(assets / "sd/scheduler/scheduler_config.json", dict(decoder.scheduler))
    for name in (store.TOKENIZER, store.TOKENIZER_CONFIG):
        if (source / name).is_file():
            shutil.copyfile(source / name, assets / "llm" / name)


def _language_model_document(config: MMInterleavedConfig) -> dict[str, Any]:
    """A Llama configuration as transformers writes it."""
    return {
        "model_type": "llama",
        **_pick(config.llm, _LLM_KEYS),
        "num_key_value_heads": config.llm.kv_heads,
        "head_dim": config.llm.head_width,
        **_pick(config.special_tokens, ("bos_token_id", "eos_token_id")),
    }


def _pick(config: object, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(config, key) for key in keys}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")

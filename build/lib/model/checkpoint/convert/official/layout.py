"""The layout of an official checkpoint: its shards, component directories and settings.

The official project keeps its weights in `OUTPUT/<run>/pytorch_model*.bin` and the directories of
the components under `assets/`. Any arrangement works: configuration files identify directories,
and each can be named explicitly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.checkpoint.store import CheckpointError

# Our configuration, as `to_official` writes it, then that of the official project.
SETTINGS = ("mm_interleaved.json", "mm_inference.yaml")

_SEARCH_DEPTH = 5
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")


@dataclass(frozen=True)
class OfficialLayout:
    """The files of an official checkpoint. `components` maps llm, clip, unet, vae, scheduler."""

    shards: tuple[Path, ...]
    components: Mapping[str, Path] = field(default_factory=dict)
    settings: Path | None = None

    def component_config(self, component: str) -> dict[str, Any]:
        """The JSON configuration of a component, empty when its directory was not found."""
        if component not in self.components:
            return {}
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        document: dict[str, Any] = _read_json(self.components[component] / name)
        return {k: v for k, v in document.items() if not k.startswith("_")}

    def component_weights(self, component: str) -> list[Path]:
        """The weight files of a component: safetensors, else `.bin`."""
        directory = self.components.get(component)
        for pattern in _WEIGHT_PATTERNS if directory else ():
            if files := sorted(directory.glob(pattern)) if directory else []:
                return [path for path in files if path.name not in _NOT_WEIGHTS]
        return []


def find_layout(
    directory: Path, named: Mapping[str, Path] | None = None, settings: Path | None = None
) -> OfficialLayout:
    """Find the shards and component directories below `directory`.

    Args:
        directory: the checkpoint's directory, or the official project's root.
        named: directories given explicitly: llm, clip, sd.
        settings: an official YAML configuration, or one of ours in JSON.

    Raises:
        CheckpointError: there are no shards, or more than one directory has some.
    """
    named = dict(named or {})
    for path in named.values():
        if not path.is_dir():
            raise CheckpointError(f"{path} is not a directory")
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory")
    components = _find_components(directory, named)
    settings = settings or _find_settings(directory)
    return OfficialLayout(_find_shards(directory, set(components.values())), components, settings)


def _find_settings(directory: Path) -> Path | None:
    for name in SETTINGS:
        for place in _directories(directory):
            if (place / name).is_file():
                return place / name
    return None


def _find_shards(directory: Path, component_directories: set[Path]) -> tuple[Path, ...]:
    candidates: dict[Path, tuple[Path, ...]] = {}
    for place in _directories(directory):
        if place in component_directories and place != directory:
            continue
        if files := sorted(place.glob("pytorch_model*.bin")):
            candidates[place] = tuple(files)
    if directory in candidates:
        return candidates[directory]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise CheckpointError(f"{directory} holds no pytorch_model*.bin")
    listed = ", ".join(map(str, candidates))
    raise CheckpointError(f"several directories hold pytorch_model*.bin, name one: {listed}")


def _find_components(directory: Path, named: Mapping[str, Path]) -> dict[str, Path]:
    """Component directories: the named ones, then the first of each kind that is found."""
    found: dict[str, Path] = {}
    for component in ("llm", "clip"):
        if component in named:
            found[component] = named[component]
    if "sd" in named:
        found |= _stable_diffusion_parts(named["sd"])
    for place in _directories(directory):
        kind = _kind_of(place)
        if kind == "sd":
            found = _stable_diffusion_parts(place) | found
        elif kind:
            found.setdefault(kind, place)
    return found


def _stable_diffusion_parts(directory: Path) -> dict[str, Path]:
    parts = {part: directory / part for part in ("unet", "vae", "scheduler")}
    return {part: path for part, path in parts.items() if path.is_dir()}


def _kind_of(directory: Path) -> str | None:
    if (directory / "model_index.json").is_file() or (directory / "unet/config.json").is_file():
        return "sd"
    if not (directory / "config.json").is_file():
        return None
    model_type = _read_json(directory / "config.json").get("model_type")
    return {"llama": "llm", "clip": "clip", "clip_vision_model": "clip"}.get(str(model_type))


def _directories(root: Path, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    yield root
    for path in sorted(root.iterdir()) if depth else ():
        if path.is_dir() and not path.name.startswith("."):
            yield from _directories(path, depth - 1)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    document = json.loads(path.read_text())
    return document if isinstance(document, dict) else {}

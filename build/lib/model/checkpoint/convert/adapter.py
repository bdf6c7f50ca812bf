"""The key table from the official checkpoint to ours.

Our parameters have the official names, so the way back needs no table, and this one holds only the
exceptions: keys of a published file that we leave out, older spellings of a key, keys that may be
absent because the model computes them, and the components that hold tensors which a published file
lacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from model.checkpoint.store import CheckpointError
from model.config.schema import MMInterleavedConfig
from model.visual_tokenizer.visual_tokenizer import CLIP_MEAN, CLIP_STD

Shapes = Mapping[str, tuple[int, ...]]

VISION = "visual_tokenizer.encoder.vision_model."
UNET = "image_decoder.decoder.unet."
VAE = "image_decoder.decoder.vae."
POSITION_EMBEDDING = f"{VISION}embeddings.position_embedding.weight"
POSITION_IDS = f"{VISION}embeddings.position_ids"


@dataclass(frozen=True)
class KeyRule:
    """One exception: official keys matching `official` become `ours`, or are left out."""

    official: str
    ours: str | None
    reason: str


KEY_RULES = (
    KeyRule(r".*\.rotary_emb\.inv_freq", None, "computed from rope_theta"),
    KeyRule(r".*\.pooler\.dense\.(weight|bias)", None, "the Q-Former's pooler is never called"),
    KeyRule(rf"{VISION}post_layernorm\.(weight|bias)", None, "the ViT's last norm is an identity"),
    KeyRule(r"(.*\.vae\..*attentions\.\d+)\.query\.(.*)", r"\1.to_q.\2", "diffusers < 0.17"),
    KeyRule(r"(.*\.vae\..*attentions\.\d+)\.key\.(.*)", r"\1.to_k.\2", "diffusers < 0.17"),
    KeyRule(r"(.*\.vae\..*attentions\.\d+)\.value\.(.*)", r"\1.to_v.\2", "diffusers < 0.17"),
    KeyRule(
        r"(.*\.vae\..*attentions\.\d+)\.proj_attn\.(.*)", r"\1.to_out.0.\2", "diffusers < 0.17"
    ),
)


def _position_ids(config: MMInterleavedConfig) -> torch.Tensor:
    return torch.arange(config.vision.grid_size**2 + 1)[None]


# Keys that may be absent, with the functions that compute them.
DERIVED: Mapping[str, Callable[[MMInterleavedConfig], torch.Tensor]] = {
    POSITION_IDS: _position_ids,
    "visual_tokenizer.clip_mean": lambda _: torch.tensor(CLIP_MEAN).view(1, 3, 1, 1),
    "visual_tokenizer.clip_std": lambda _: torch.tensor(CLIP_STD).view(1, 3, 1, 1),
}

# Our prefix -> component directory and the prefix of the same keys in its weights.
COMPONENT_KEYS: Mapping[str, tuple[str, str]] = {
    "mm_decoder.": ("llm", "model."),
    VISION: ("clip", "vision_model."),
    UNET: ("unet", ""),
    VAE: ("vae", ""),
}


def to_ours(official_key: str) -> str | None:
    """Our name of an official key, or None for one that we leave out."""
    for rule in KEY_RULES:
        if match := re.fullmatch(rule.official, official_key):
            return None if rule.ours is None else match.expand(rule.ours)
    return official_key


def component_key(name: str) -> tuple[str, str] | None:
    """The component directory and the key of one of our tensors, if a component holds it."""
    for prefix, (component, theirs) in COMPONENT_KEYS.items():
        if name.startswith(prefix):
            return component, theirs + name.removeprefix(prefix)
    return None


def component_name(component: str, key: str) -> str | None:
    """Our name of a component's key, or None if the key is none of ours."""
    for prefix, (owner, theirs) in COMPONENT_KEYS.items():
        if owner == component and key.startswith(theirs):
            return to_ours(prefix + key.removeprefix(theirs))
    return None


def check_keys(found: Shapes, expected: Shapes, elsewhere: Iterable[str] = ()) -> list[str]:
    """Compare the tensors found, under our names, with those that a configuration needs.

    Returns:
        The names that are missing and must come from `elsewhere` or be computed.

    Raises:
        CheckpointError: keys are unknown, missing everywhere, or of another shape; all are named.
    """
    unknown = sorted(set(found) - set(expected))
    available = set(elsewhere) | set(DERIVED)
    missing = sorted(set(expected) - set(found))
    problems = [f"unknown key {name}" for name in unknown]
    problems += [f"missing key {name}" for name in missing if name not in available]
    problems += [
        f"{name}: shape {list(shape)}, configured {list(expected[name])}"
        for name, shape in sorted(found.items())
        if name in expected and tuple(shape) != tuple(expected[name])
    ]
    if problems:
        raise CheckpointError(f"{len(problems)} problems with keys:\n  " + "\n  ".join(problems))
    return missing


def resize_position_embedding(weight_PD: torch.Tensor, grid: int) -> torch.Tensor:
    """CLIP's position embedding for another grid, as the official loader resizes it.

    The class token's row stays; the others are interpolated bicubically, in float32.
    """
    side = int((weight_PD.shape[0] - 1) ** 0.5)
    if side == grid:
        return weight_PD
    width = weight_PD.shape[1]
    cells_1DGG = weight_PD[1:].float().reshape(1, side, side, width).permute(0, 3, 1, 2)
    cells_1DGG = torch.nn.functional.interpolate(
        cells_1DGG, size=(grid, grid), mode="bicubic", align_corners=False
    )
    cells_PD = cells_1DGG.permute(0, 2, 3, 1).reshape(grid * grid, width)
    return torch.cat((weight_PD[:1].float(), cells_PD)).to(weight_PD.dtype)

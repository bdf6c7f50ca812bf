"""Load the tensors of a checkpoint, or its model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from model.checkpoint import store
from model.checkpoint.packaged import base_model
from model.mm_interleaved import MMInterleaved

_HEAD = "text_decoder.head.weight"

# Stored in float32: the two biases of the new tokens, which are near 100 and almost cancel, and
# the constants of the pixels.
STORED_FLOAT32_PREFIXES = (
    "text_decoder.head.bias",
    "text_decoder.head_new.bias",
    "visual_tokenizer.clip_",
)
# Always served in float32: the VAE too, as officially (SD's decoder overflows in half precision).
FLOAT32_PREFIXES = ("image_decoder.decoder.vae.", *STORED_FLOAT32_PREFIXES)


def iter_tensors(
    directory: Path | str, prefixes: Collection[str] = ("",), device: str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors, one at a time; `prefixes` chooses some of them.

    Where the language model is a package's, its tensors come last.
    """
    directory = Path(directory)
    by_file: dict[str, list[str]] = {}
    for name, file_name in store.weight_map(directory).items():
        if name.startswith(tuple(prefixes)):
            by_file.setdefault(file_name, []).append(name)
    for file_name, names in by_file.items():
        with safe_open(directory / file_name, framework="pt", device=device) as file:
            for name in names:
                yield name, file.get_tensor(name)
    for name, tensor in base_model.updated_tensors(directory, prefixes):
        yield name, tensor.to(device)


def load_model(
    directory: Path | str,
    components: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MMInterleaved:
    """The model of a checkpoint in evaluation mode, or some of its components.

    Floating-point tensors are cast to `dtype`, except those of `FLOAT32_PREFIXES`.

    Raises:
        CheckpointError: tensors are missing or of another shape.
    """
    config = store.load_config(directory)
    with torch.device("meta"):
        model = MMInterleaved(config) if components is None else MMInterleaved(config, components)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in iter_tensors(directory, ("",) if components is None else components):
        if name not in expected:
            continue
        if tensor.shape != expected[name]:
            raise store.CheckpointError(
                f"{name}: shape {tuple(tensor.shape)}, configured {tuple(expected[name])}"
            )
        state[name] = tensor.to(device, serving_dtype(name, tensor.dtype, dtype))
    if missing := sorted(set(expected) - set(state)):
        raise store.CheckpointError(
            f"{directory} lacks {len(missing)} tensors: {', '.join(missing[:9])}"
        )
    model.load_state_dict(state, assign=True)
    if config.llm.tie_word_embeddings and {"mm_decoder.embed_tokens.weight", _HEAD} <= set(state):
        model.text_decoder.head.weight = model.mm_decoder.embed_tokens.weight
    return model.eval()


def serving_dtype(name: str, stored: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """The type in which a tensor is served."""
    if not stored.is_floating_point:
        return stored
    return torch.float32 if name.startswith(FLOAT32_PREFIXES) else wanted

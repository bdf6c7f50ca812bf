"""The model of a variant, with the start that it shares with the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import load, store
from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.training.ablation.recipe import AblationRecipe, Variant
from model.training.initialise import initialise

_VISION = "visual_tokenizer."
_QUERIES = "visual_tokenizer.perceiver_resampler.queries"
_SHARED = (_VISION, "image_decoder.decoder.unet.", "image_decoder.decoder.vae.")


def build(recipe: AblationRecipe, variant: Variant, seed: int) -> MMInterleaved:
    """A fresh language model and synchronizers around pre-trained vision, U-Net and autoencoder.

    Whatever two variants both have starts out with the same numbers.
    """
    start = store.load_config(recipe.start)
    config = preset(recipe.preset)
    decoder = replace(start.image_decoder, perceiver=config.image_decoder.perceiver)
    config = replace(config, vision=start.vision, image_decoder=decoder)
    torch.manual_seed(seed)
    whole = MMInterleaved(config)
    initialise(whole)
    _load(whole, _pretrained(recipe))
    model = MMInterleaved(
        replace(config, synchronize_text=variant.text, synchronize_pictures=variant.pictures)
    )
    names = model.state_dict().keys()
    model.load_state_dict({n: t for n, t in whole.state_dict().items() if n in names})
    return model


def _pretrained(recipe: AblationRecipe) -> dict[str, Tensor]:
    tensors = dict(load.iter_tensors(recipe.start, _SHARED))
    if recipe.vision is not None:
        vision = load_file(Path(recipe.vision))
        tensors |= {_VISION + name: tensor for name, tensor in vision.items()}
    return tensors


def _load(model: MMInterleaved, tensors: dict[str, Tensor]) -> None:
    """Copy what has the right shape; of the perceiver's queries, as many as there are."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        tensor = tensor[:, : own[name].shape[1]] if name == _QUERIES else tensor
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)

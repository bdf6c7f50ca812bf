"""A trained checkpoint that lends its vision and its image decoder to a fresh model.

As the published training starts from CLIP and Stable Diffusion: neither depends on the language
model between them. What connects them to it (the projection of the visual tokens, and the context's
projection and perceiver) is learned anew.
"""

from __future__ import annotations

from pathlib import Path

import torch

from model.checkpoint import load, store
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.training.encoder import scale_latents

_PARTS = ("visual_tokenizer.", "image_decoder.decoder.", "image_decoder.neg_prompt_embeds")
_CONNECTION = "visual_tokenizer.proj."
_TABLE = ".pos_embed"  # Fixed, and as large as the picture.


@torch.no_grad()
def adopt(model: MMInterleaved, donor: Path) -> None:
    """Copy the vision, the U-Net with its synchronizer and the autoencoder of a checkpoint.

    The pictures drawn may be of another size than the donor's; its autoencoder brings the factor
    of its latents along.

    Raises:
        ConfigError: a part of the donor has another size, or is missing.
        CheckpointError: the donor is no checkpoint.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if _is_lent(name)}
    for name, tensor in load.iter_tensors(donor, _PARTS):
        if not _is_lent(name):
            continue
        into = own.pop(name, None)
        if into is None or into.shape != tensor.shape:
            raise ConfigError(f"{donor} does not fit {model.config.name!r}: {name}")
        into.copy_(tensor)
    if own:
        raise ConfigError(f"{donor} does not fit {model.config.name!r}: it lacks {min(own)}")
    scale_latents(model, store.load_config(donor).image_decoder.vae["scaling_factor"])


def _is_lent(name: str) -> bool:
    in_part = name.startswith(_PARTS) and not name.startswith(_CONNECTION)
    return in_part and not (name.startswith("image_decoder.") and name.endswith(_TABLE))

"""The variants of the ablation, its recipe, and the models that they start with."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import load, store
from model.config.presets import preset
from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.training.weights.start import initialise


@dataclass(frozen=True)
class Variant:
    """Where the synchronizer is present."""

    text: bool
    images: bool

    @property
    def name(self) -> str:
        """For tables."""
        where = [n for n, on in (("language model", self.text), ("decoder", self.images)) if on]
        return " and ".join(where) or "nowhere"


VARIANTS = tuple(Variant(text, images) for text in (False, True) for images in (False, True))


@dataclass(frozen=True)
class AblationRecipe:
    """All settings of the ablation.

    Attributes:
        preset: sizes of all variants; its number of tokens of an image is the bottleneck.
        start: checkpoint whose encoder, U-Net, autoencoder and tokenizer all variants start from.
        vision: weights of a visual tokenizer to start from in place of that checkpoint's.
        text_seeds: a language model is trained for each.
        picture_seeds: for these the image decoder is trained, too.
        word_steps: steps in which a language model first learns from words in place of images.
        num_scenes: images to learn from in questions and captions.
        num_stories: stories to learn from.
        num_questions: held-out questions about details.
        num_held_out_stories: held-out stories to generate.
    """

    start: str
    preset: str = "micro"
    vision: str | None = None
    text_seeds: tuple[int, ...] = (0, 1, 2)
    picture_seeds: tuple[int, ...] = (0,)
    word_steps: int = 600
    num_scenes: int = 2000
    num_stories: int = 300
    text_steps: int = 1500
    text_batch_size: int = 32
    text_rate: float = 2e-3
    picture_steps: int = 500
    picture_batch_size: int = 8
    picture_rate: float = 8e-4
    num_questions: int = 1200
    num_held_out_stories: int = 32
    num_inference_steps: int = 12
    guidance_scale: float = 2.0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe.

        Raises:
            ConfigError: it holds unknown keys.
        """
        document = tomllib.loads(path.read_text())
        if unknown := set(document) - {entry.name for entry in fields(cls)}:
            raise ConfigError(f"ablation: unknown keys {sorted(unknown)}")
        for name in ("text_seeds", "picture_seeds"):
            if name in document:
                document[name] = tuple(document[name])
        return cls(**document)


_VISION = "visual_tokenizer."
_QUERIES = "visual_tokenizer.perceiver_resampler.queries"
_SHARED = (_VISION, "image_decoder.decoder.unet.", "image_decoder.decoder.vae.")


def build(recipe: AblationRecipe, variant: Variant, seed: int) -> MMInterleaved:
    """A fresh language model and synchronizers around pre-trained vision, U-Net and autoencoder.

    Parts that two variants share start with the same numbers.
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
        replace(config, synchronize_text=variant.text, synchronize_pictures=variant.images)
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
    """Copy tensors of the right shape, and as many of the perceiver's queries as fit."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        tensor = tensor[:, : own[name].shape[1]] if name == _QUERIES else tensor
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)

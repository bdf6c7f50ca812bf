"""Configuration of the model: frozen dataclasses that load from and save to JSON.

Named configurations are in `model.config.presets`.

Every size used anywhere in `model` comes from here; nothing is tuned to one preset.
Names follow the official project where it has one.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


class ConfigError(ValueError):
    """A configuration has an unknown or missing key, or inconsistent sizes."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens. `soi` begins an image, `image` is a placeholder in it."""

    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 31999
    soi_token_id: int = 32000
    image_token_id: int = 32001


@dataclass(frozen=True)
class LanguageModelConfig:
    """A Llama-architecture language model. `vocab_size` is the size before new tokens."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads (grouped-query attention)."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT with ViT-Adapter. Images of `image_size` pixels have `grid_size`^2 patches.

    The adapter yields four maps of side 4g, 2g, g and g/2 for a grid of side g.
    `interaction_indexes` are the first and last layer of each interaction.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int = 24
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-5
    conv_inplane: int = 64
    n_points: int = 4
    deform_ratio: float = 0.5
    cffn_ratio: float = 0.25
    interaction_indexes: tuple[tuple[int, int], ...] = ((0, 5), (6, 11), (12, 17), (18, 23))

    @property
    def grid_size(self) -> int:
        """Side of the patch grid."""
        return self.image_size // self.patch_size

    @property
    def map_sizes(self) -> tuple[int, int, int, int]:
        """Sides of the four feature maps, finest first."""
        g = self.grid_size
        return (4 * g, 2 * g, g, g // 2)


@dataclass(frozen=True)
class CodebookConfig:
    """What tokens can hold: in each section of equally many at most one vector of each book.

    `sizes` are the numbers of vectors in the books. `sections` are the books of each section, and
    of `required` ones every token of their sections holds a vector. Of books in `alternatives` a
    token holds those of one alternative, all of them.
    """

    sizes: tuple[int, ...]
    sections: tuple[tuple[int, ...], ...]
    required: tuple[int, ...] = ()
    alternatives: tuple[tuple[int, ...], ...] = ((),)


@dataclass(frozen=True)
class PerceiverConfig:
    """A Q-Former style resampler: learned queries read a sequence by cross-attention.

    With a `codebook` the layers after the last that reads get what the codebook can tell.
    """

    num_queries: int
    hidden_size: int
    encoder_hidden_size: int
    cross_attention_frequency: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int = 3072
    qk_normalization: bool = False
    layer_norm_eps: float = 1e-12
    codebook: CodebookConfig | None = None


@dataclass(frozen=True)
class SynchronizerConfig:
    """MMFS: deformable cross-attention over the feature maps of all visible images.

    `attn_dim` is the width that the heads share before `ratio`; None takes the query's width.
    """

    n_heads: int = 16
    n_points: int = 8
    ratio: float = 1.0
    attn_dim: int | None = None
    max_num_image_per_seq: int = 50


@dataclass(frozen=True)
class ImageDecoderConfig:
    """The Stable-Diffusion decoder. `unet`, `vae` and `scheduler` are diffusers configurations.

    `guidance_scale` is that of images whose request names none. With `guide_maps` the negative half
    of guidance reads no maps, so that guidance also strengthens what comes from the image before.
    `anchored`: all images of an answer read the maps of its anchor, which is the last image before
    the answer, or else the answer's first; as published each reads those of the image before it.
    With `token_grid` the image tokens form a square grid over the image
    (`model.image_decoder.unet.token_grid`).
    """

    perceiver: PerceiverConfig
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    image_size: int = 512
    base_seed: int = 42
    guidance_scale: float = 7.5
    uncond_prob: float = 0.1
    guide_maps: bool = False
    anchored: bool = False
    token_grid: bool = False
    synchronizer: SynchronizerConfig = field(
        default_factory=lambda: SynchronizerConfig(attn_dim=1024, max_num_image_per_seq=10)
    )

    def guidance_of(self, given: float | None) -> float:
        """The guidance of an image: the given one, or the checkpoint's."""
        return self.guidance_scale if given is None else given

    @property
    def latent_size(self) -> int:
        """Side of the latent map of an image of `image_size` pixels."""
        return self.image_size // self.vae_scale_factor

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent position, along one side."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))


@dataclass(frozen=True)
class MMInterleavedConfig:
    """The whole model.

    `spatial_shapes` are the sides of the maps that the language model reads; the image decoder
    reads all four. `base_spatial_shape` is the side in which its sampling offsets are measured.
    Without `synchronize_text` or `synchronize_pictures` the language model or the image decoder has
    no synchronizer; such a model must be trained without it.
    """

    llm: LanguageModelConfig
    vision: VisionConfig
    visual_perceiver: PerceiverConfig
    image_decoder: ImageDecoderConfig
    special_tokens: SpecialTokens = SpecialTokens()
    txt_vocab_size: int = 32002
    seq_len: int = 2048
    num_img_token: int = 64
    cross_attention_frequency: int = 4
    spatial_shapes: tuple[int, ...] = (32, 16, 8)
    base_spatial_shape: int = 16
    max_images: int = 8
    synchronize_text: bool = True
    synchronize_pictures: bool = True
    text_synchronizer: SynchronizerConfig = field(
        default_factory=lambda: SynchronizerConfig(ratio=0.2)
    )
    name: str = "custom"

    def __post_init__(self) -> None:
        """Check the sizes that must agree across components."""
        if self.num_img_token != self.visual_perceiver.num_queries:
            raise ConfigError("num_img_token must equal visual_perceiver.num_queries")
        if not set(self.spatial_shapes) <= set(self.vision.map_sizes):
            raise ConfigError(
                f"spatial_shapes {self.spatial_shapes} are not all among the adapter's maps "
                f"{self.vision.map_sizes}"
            )
        if self.image_decoder.perceiver.encoder_hidden_size != self.llm.hidden_size:
            raise ConfigError("image_decoder.perceiver.encoder_hidden_size must be the LLM's width")

    @property
    def image_embed_dim(self) -> int:
        """Width of the visual feature maps."""
        return self.vision.hidden_size

    @property
    def num_image_vectors(self) -> int:
        """Feature vectors of one image that the language model can sample."""
        return sum(side * side for side in self.spatial_shapes)

    @property
    def vectors_per_token(self) -> int:
        """Feature vectors of an image that each of its placeholder tokens holds in the cache."""
        return -(-self.num_image_vectors // self.num_img_token)

    @property
    def synchronizer_layers(self) -> tuple[int, ...]:
        """Indices of the language model's layers that hold a synchronizer."""
        if not self.synchronize_text:
            return ()
        return tuple(range(0, self.llm.num_hidden_layers, self.cross_attention_frequency))

    def to_dict(self) -> dict[str, Any]:
        """This configuration as plain JSON types."""
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Build a configuration from plain JSON types.

        Raises:
            ConfigError: a key is unknown or missing, or sizes disagree.
        """
        return typing.cast(Self, _build(cls, document, "config"))

    def save(self, path: Path) -> None:
        """Write this configuration as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a configuration written by `save`."""
        return cls.from_dict(json.loads(path.read_text()))


def _build(kind: Any, value: Any, where: str) -> Any:
    """Convert plain JSON `value` to the annotated type `kind`, naming `where` in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := set(value) - set(hints):
            raise ConfigError(f"{where}: unknown keys {sorted(unknown)}")
        try:
            return kind(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items()})  # type: ignore[operator]
        except TypeError as error:
            raise ConfigError(f"{where}: {error}") from error
    if origin is tuple:
        item = arguments[0]
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(item, v, where) for v in value)
        return tuple(_build(a, v, where) for a, v in zip(arguments, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(arguments[0], value, where)
    return value

"""The configuration of an official checkpoint, from its tensors' shapes and its components.

Shapes show almost every size. The others (attention heads, constants of the rotary embedding and of
the diffusion schedule) come from the components' configuration files, then from the official YAML.
The rest is assumed as published, with a warning for each assumption.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from model.checkpoint.convert.adapter import UNET, VISION, Shapes
from model.checkpoint.convert.official.layout import OfficialLayout
from model.checkpoint.store import CheckpointError
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ADAPTER_POINTS = 4
_LLAMA_HEAD_WIDTH = 128
_PERCEIVER_HEAD_WIDTH = 64
_MAX_IMAGES = 8


def derive_config(shapes: Shapes, layout: OfficialLayout) -> MMInterleavedConfig:
    """The configuration of the checkpoint whose tensors have these shapes.

    Raises:
        CheckpointError: a tensor that shows a size is missing.
    """
    if layout.settings and layout.settings.suffix == ".json":
        return MMInterleavedConfig.load(layout.settings)
    settings = _official_settings(layout.settings)
    try:
        document = _document(shapes, layout, settings)
    except KeyError as error:
        raise CheckpointError(f"missing key {error.args[0]}") from error
    return MMInterleavedConfig.from_dict(document)


def _document(
    shapes: Shapes, layout: OfficialLayout, settings: Mapping[str, Any]
) -> dict[str, Any]:
    num_new_tokens = shapes["text_decoder.head_new.bias"][0]
    txt_vocab_size = shapes["text_decoder.head.bias"][0]
    llm_config = layout.component_config("llm")
    llm = _language_model(shapes, llm_config, txt_vocab_size - num_new_tokens)
    synchronizer_layers = _indices(shapes, r"mm_decoder\.layers\.(\d+)\.llama_cross_attn\.gate")
    frequency = synchronizer_layers[1] if len(synchronizer_layers) > 1 else llm["num_hidden_layers"]
    vision = _vision(shapes, layout.component_config("clip"))
    grid = vision["image_size"] // vision["patch_size"]
    spatial_shapes = settings.get("spatial_shapes", [2 * grid, grid, grid // 2])
    visual_settings = settings.get("visual_tokenizer_config", {}).get("perceiver_config", {})
    visual_perceiver = _perceiver(shapes, "visual_tokenizer.", visual_settings)
    prefix = f"mm_decoder.layers.{synchronizer_layers[0]}.llama_cross_attn.attn."
    return {
        "name": "official",
        "llm": llm,
        "vision": vision,
        "visual_perceiver": visual_perceiver,
        "image_decoder": _image_decoder(shapes, layout, settings.get("image_decoder_config", {})),
        "special_tokens": settings.get("special_token_dict")
        or _special_tokens(llm_config, llm["vocab_size"]),
        "txt_vocab_size": txt_vocab_size,
        "seq_len": settings.get("seq_len", 2048),
        "num_img_token": visual_perceiver["num_queries"],
        "cross_attention_frequency": frequency,
        "spatial_shapes": list(spatial_shapes),
        "base_spatial_shape": grid,
        "max_images": _MAX_IMAGES,
        "text_synchronizer": _synchronizer(shapes, prefix, len(spatial_shapes), by_ratio=True),
    }


def _language_model(shapes: Shapes, config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    hidden_size = shapes["mm_decoder.norm.weight"][0]
    heads = config.get("num_attention_heads") or _assume(
        "llm.num_attention_heads", max(1, hidden_size // _LLAMA_HEAD_WIDTH)
    )
    q_width = shapes["mm_decoder.layers.0.self_attn.q_proj.weight"][0]
    kv_width = shapes["mm_decoder.layers.0.self_attn.k_proj.weight"][0]
    head_dim = q_width // heads
    rope = config.get("rope_parameters") or {}
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(_indices(shapes, r"mm_decoder\.layers\.(\d+)\.input_layernorm.*")),
        "num_attention_heads": heads,
        "intermediate_size": shapes["mm_decoder.layers.0.mlp.gate_proj.weight"][0],
        "vocab_size": vocab_size,
        "num_key_value_heads": kv_width // head_dim,
        "head_dim": head_dim,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": config.get("rope_theta") or rope.get("rope_theta", 10000.0),
        "max_position_embeddings": config.get("max_position_embeddings", 2048),
    }


def _vision(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    config = config.get("vision_config") or config
    hidden_size, _, patch, _ = shapes[f"{VISION}embeddings.patch_embedding.weight"]
    grid = int((shapes[f"{VISION}embeddings.position_embedding.weight"][0] - 1) ** 0.5)
    layers = len(_indices(shapes, rf"{re.escape(VISION)}encoder\.layers\.(\d+)\.layer_norm1\.bias"))
    groups = len(
        _indices(shapes, rf"{re.escape(VISION)}adapter_interactions\.(\d+)\.injector\.gamma")
    )
    extractor = f"{VISION}adapter_interactions.0.extractor."
    slots = shapes[f"{extractor}attn.attention_weights.bias"][0]
    heads = config.get("num_attention_heads") or slots // _ADAPTER_POINTS
    step = layers // groups
    return {
        "hidden_size": hidden_size,
        "intermediate_size": shapes[f"{VISION}encoder.layers.0.mlp.fc1.bias"][0],
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "image_size": grid * patch,
        "patch_size": patch,
        "layer_norm_eps": config.get("layer_norm_eps", 1e-5),
        "conv_inplane": shapes[f"{VISION}adapter_spm.stem.0.weight"][0],
        "n_points": slots // heads,
        "deform_ratio": shapes[f"{extractor}attn.value_proj.bias"][0] / hidden_size,
        "cffn_ratio": shapes[f"{extractor}ffn.fc1.bias"][0] / hidden_size,
        "interaction_indexes": [[i * step, (i + 1) * step - 1] for i in range(groups)],
    }


def _perceiver(shapes: Shapes, owner: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{owner}perceiver_resampler."
    layers = f"{prefix}blip2qformer.encoder.layer."
    _, num_queries, hidden_size = shapes[f"{prefix}queries"]
    reads = _indices(shapes, rf"{re.escape(layers)}(\d+)\.crossattention\.attention\.key\.weight")
    num_layers = len(_indices(shapes, rf"{re.escape(layers)}(\d+)\.output_query\.dense\.bias"))
    norm = shapes.get(f"{layers}0.attention.attention.q_norm.weight")
    heads = settings.get("num_attention_heads") or (
        hidden_size // norm[0]
        if norm
        else _assume(f"{owner}heads", max(1, hidden_size // _PERCEIVER_HEAD_WIDTH))
    )
    return {
        "num_queries": num_queries,
        "hidden_size": hidden_size,
        "encoder_hidden_size": shapes[f"{layers}0.crossattention.attention.key.weight"][1],
        "cross_attention_frequency": reads[1] if len(reads) > 1 else num_layers,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "intermediate_size": shapes[f"{layers}0.intermediate_query.dense.bias"][0],
        "qk_normalization": norm is not None,
    }


def _image_decoder(
    shapes: Shapes, layout: OfficialLayout, settings: Mapping[str, Any]
) -> dict[str, Any]:
    published = preset("13b").image_decoder
    unet = layout.component_config("unet") or _assume("unet", dict(published.unet))
    vae = layout.component_config("vae") or _assume("vae", dict(published.vae))
    scheduler = layout.component_config("scheduler") or _assume(
        "scheduler", dict(published.scheduler)
    )
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    blocks = f"{UNET.removesuffix('unet.')}mmfs_module.mmfs_down_blocks.0.mmfs."
    return {
        "perceiver": _perceiver(shapes, "image_decoder.", settings.get("perceiver_config", {})),
        "unet": unet,
        "vae": {"scaling_factor": 0.18215} | vae,
        "scheduler": scheduler,
        "image_size": settings.get("image_size", unet.get("sample_size", 64) * factor),
        "base_seed": settings.get("sd_base_seed", 42),
        "synchronizer": _synchronizer(shapes, blocks, num_levels=4, by_ratio=False),
    }


def _synchronizer(shapes: Shapes, prefix: str, num_levels: int, by_ratio: bool) -> dict[str, Any]:
    """Solve heads and points from 2 * heads * points and heads * levels * (points + 1)."""
    offsets = shapes[f"{prefix}sampling_offsets.bias"][0]
    slots = shapes[f"{prefix}attention_weights.bias"][0]
    heads = slots // num_levels - offsets // 2
    width, query_width = (
        shapes[f"{prefix}value_proj.bias"][0],
        shapes[f"{prefix}query_relpos.weight"][1],
    )
    sizes: dict[str, Any] = {"attn_dim": width}
    if by_ratio:
        ratio = width / query_width
        exact = int(query_width * ratio) == width
        sizes = {"ratio": ratio if exact else (width + 0.5) / query_width}
    return {
        "n_heads": heads,
        "n_points": offsets // (2 * heads),
        "max_num_image_per_seq": shapes[f"{prefix}query_relpos.weight"][0],
        **sizes,
    }


def _special_tokens(config: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    """As published: the two new ids follow the vocabulary, whose last id pads."""
    return {
        "bos_token_id": config.get("bos_token_id", 1),
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": vocab_size - 1,
        "soi_token_id": vocab_size,
        "image_token_id": vocab_size + 1,
    }


def _official_settings(path: Path | None) -> dict[str, Any]:
    """The `model` section of an official YAML configuration."""
    if path is None:
        return {}
    import yaml

    document = yaml.safe_load(path.read_text())
    return document.get("model", document)


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers that the pattern's group takes among the keys, in order."""
    compiled = re.compile(pattern)
    found = sorted({int(m[1]) for key in shapes if (m := compiled.fullmatch(key))})
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return found


def _assume(what: str, value: T) -> T:
    shown = "as published" if isinstance(value, dict) else value
    logger.warning("assuming %s: %s; name the component or give --config", what, shown)
    return value

"""The recorded numbers of the official implementation, its weights, and how far off we are."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import Batch, MMInterleaved

DIRECTORY = Path(__file__).parent.parent / "data" / "goldens"


@cache
def document() -> dict[str, Any]:
    return json.loads((DIRECTORY / "config.json").read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(DIRECTORY / f"{name}.safetensors")


@cache
def config() -> MMInterleavedConfig:
    """The recorded hyper-parameters as our configuration."""
    m = document()["model"]
    fixed, adapter = dict(m["clip_fixed"]), m["clip_fixed"]["adapter"]
    del fixed["hidden_act"], fixed["adapter"]
    sd, llm_mmfs, unet_mmfs = m["sd"], m["llm_mmfs"], m["unet_mmfs"]
    dropout = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    image_perceiver = {k: v for k, v in m["image_perceiver"].items() if k not in dropout}
    synchronizer = ("n_heads", "n_points", "max_num_image_per_seq")
    return MMInterleavedConfig.from_dict(
        {
            "name": f"golden-{document()['family']}",
            "llm": m["llm"],
            "vision": m["clip"] | fixed | adapter,
            "visual_perceiver": m["visual_perceiver"],
            "image_decoder": {
                "perceiver": image_perceiver,
                **{part: sd[part] for part in ("unet", "vae", "scheduler")},
                "image_size": m["image_size"],
                "base_seed": m["sd_base_seed"],
                "synchronizer": {k: unet_mmfs[k] for k in (*synchronizer, "attn_dim", "ratio")},
            },
            "special_tokens": m["special_token_dict"],
            "txt_vocab_size": m["txt_vocab_size"],
            "seq_len": m["seq_len"],
            "num_img_token": m["num_img_token"],
            "cross_attention_frequency": m["cross_attention_frequency"],
            "spatial_shapes": m["spatial_shapes"],
            "base_spatial_shape": llm_mmfs["base_spatial_shape"],
            "text_synchronizer": {
                **{k: llm_mmfs[k] for k in synchronizer},
                "ratio": m["image_embed_dim"] / m["llm"]["hidden_size"],
            },
        }
    )


@cache
def state_dict() -> dict[str, Tensor]:
    """All official keys; tensors that were stored once are shared."""
    state = dict(tensors("model_state"))
    for name, source in document()["state_dict_aliases"].items():
        state[name] = state[source]
    return state


def fresh_model() -> MMInterleaved:
    """The whole model with the official weights."""
    with torch.device("meta"):
        model = MMInterleaved(config())
    model.load_state_dict(state_dict(), strict=True, assign=True)
    return model.eval()


@cache
def model() -> MMInterleaved:
    """The same, built once for all who only read it."""
    return fresh_model()


def train_grad_norms() -> dict[str, float | None]:
    """Norm of the gradient of every trained parameter; None where there is no gradient."""
    return json.loads((DIRECTORY / "train_grad_norms.json").read_text())


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def images() -> Tensor:
    """The pool of images, [5, 3, 224, 224] in [0, 1]."""
    return tensors("full_model")["in/images_u8"].float() / 255


def decoder_images() -> Tensor:
    """The same pool as targets of the image decoder, [5, 3, 512, 512] in [0, 1]."""
    small = tensors("full_model")["in/dec_images_u8_64"].float() / 255
    return small.repeat_interleave(8, -1).repeat_interleave(8, -2)


def batch(documents_apart: bool = False) -> Batch:
    """The recorded batch of two sequences; its second row holds two documents."""
    recorded = tensors("full_model")
    return Batch(
        recorded["in/text_ids"],
        images(),
        recorded["in/num_image_per_seq"],
        recorded["in/attention_mask"],
        recorded["in/nearest_bos_idxs"] if documents_apart else None,
    )


def assert_close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Compare with the recorded tensor and print the largest error."""
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.detach().double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
    print(f"{name}: largest error {error:.2e}, tolerance {tolerance:.0e}")  # noqa: T201
    assert error <= tolerance, f"{name}: error {error:.3e} > {tolerance:.0e}"

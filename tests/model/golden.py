"""The recorded numbers of the official implementation, its weights, and how far ours are off.

`MMI_GOLDENS` names another directory of the same form (tests/data/goldens/README.md): all golden
tests then run on that family. No test may depend on the sizes of one family.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.checkpoint import seeded
from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import Batch, MMInterleaved

SHIPPED = Path(__file__).parent.parent / "data" / "goldens"
DIRECTORY = Path(os.environ.get("MMI_GOLDENS") or SHIPPED)

# What a key may say behind the name of a tensor: it was thinned to a size, to every n-th row and
# column, or cropped.
_PART = re.compile(
    r"(?:_(?P<side>\d+)x\d+)?(?:_stride(?P<stride>\d+))?"
    r"(?:_crop_(?P<height>\d+)x(?P<width>\d+)_at_(?P<top>\d+)_(?P<left>\d+))?"
)


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


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the recorded vocabulary; one without text if that can't spell every byte."""
    try:
        return seeded.build_tokenizer(config())
    except ValueError:
        vocab = {f"<unused_{index}>": index for index in range(config().txt_vocab_size)}
        words = Tokenizer(models.WordLevel(vocab, unk_token="<unused_0>"))
        return PreTrainedTokenizerFast(tokenizer_object=words)


def train_grad_norms() -> dict[str, float | None]:
    """Norm of the gradient of every trained parameter; None where there is no gradient."""
    return json.loads((DIRECTORY / "train_grad_norms.json").read_text())


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def images() -> Tensor:
    """The pool of images, [n, 3, s, s] in [0, 1]."""
    return tensors("full_model")["in/images_u8"].float() / 255


def decoder_images() -> Tensor:
    """The same pool as targets of the image decoder, [n, 3, S, S] in [0, 1]."""
    (key,) = (k for k in tensors("full_model") if k.startswith("in/dec_images_u8"))
    small = tensors("full_model")[key].float() / 255
    factor = config().image_decoder.image_size // small.shape[-1]
    return small.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def batch(documents_apart: bool = False) -> Batch:
    """The recorded batch; a row may hold several documents."""
    recorded = tensors("full_model")
    return Batch(
        recorded["in/text_ids"],
        images(),
        recorded["in/num_image_per_seq"],
        recorded["in/attention_mask"],
        recorded["in/nearest_bos_idxs"] if documents_apart else None,
    )


def row_of_batch(row: int) -> tuple[Batch, slice]:
    """One row of the recorded batch without its padding, and the place of its images."""
    whole = batch(documents_apart=True)
    length = int(whole.attention_mask_BL[row].sum())
    first = int(whole.num_images_B[:row].sum())
    images_of_row = slice(first, first + int(whole.num_images_B[row]))
    alone = Batch(
        whole.text_ids_BL[row : row + 1, :length],
        whole.pixels_N3SS[images_of_row],
        whole.num_images_B[row : row + 1],
        whole.attention_mask_BL[row : row + 1, :length],
        whole.bos_columns_N[images_of_row],
    )
    return alone, images_of_row


def recorded_parts(
    name: str, ours: Tensor, recorded: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each key under which parts of a tensor are recorded, with our part and the recorded one."""
    for key, theirs in recorded.items():
        match = _PART.fullmatch(key.removeprefix(name)) if key.startswith(name) else None
        if match is None:
            continue
        part = ours
        if match["side"]:
            step = ours.shape[-1] // int(match["side"])
            part = part[..., ::step, ::step]
        if match["stride"]:
            step = int(match["stride"])
            part = part[..., ::step, ::step]
        if match["height"]:
            rows, columns = (
                slice(int(match[at]), int(match[at]) + int(match[size]))
                for at, size in (("top", "height"), ("left", "width"))
            )
            part = part[..., rows, columns]
        yield key, part, theirs


def assert_recorded(name: str, ours: Tensor, recorded: dict[str, Tensor], tolerance: float) -> None:
    """Compare with all recorded parts of the tensor of that name; there must be one."""
    parts = list(recorded_parts(name, ours, recorded))
    assert parts, f"nothing is recorded of {name}"
    for key, part, theirs in parts:
        assert_close(key, part, theirs, tolerance)


def assert_close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Compare with the recorded tensor and print the largest error."""
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.detach().double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
    print(f"{name}: largest error {error:.2e}, tolerance {tolerance:.0e}")  # noqa: T201
    assert error <= tolerance, f"{name}: error {error:.3e} > {tolerance:.0e}"

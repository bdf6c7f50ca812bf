"""One evaluation of the U-Net, with nothing computed twice.

Legend: B images, N rows (B, or 2B with both guidance halves: negative first), C channels, T image
tokens, h heads, d head width, L positions, W width.

It runs diffusers' modules, but differs from `UNet2DConditionModel.forward` in four ways. The
synchronizer adds its residuals to the skips after the middle block. Image tokens that form a grid
are added there too, to one skip (`token_grid.py`). Keys and values of the image tokens are computed
once per image (`Conditions`). The two guidance halves have the same latents, so they share one row
up to the first cross-attention, where their conditions first differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from torch import Tensor

from model.image_decoder.unet.conditions import Conditions

_SUPPORTED = {
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "only_cross_attention": (False,),
    "dual_cross_attention": (False,),
    "center_input_sample": (False,),
    "resnet_time_scale_shift": ("default",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "cross_attention_norm": (None,),
    "attention_type": ("default",),
}


class SkipReader(Protocol):
    """One block of a synchronizer."""

    @property
    def nothing_C(self) -> Tensor:
        """The residual of every place of a skip that sees no image."""
        ...

    def attend(self, sample_NCHW: Tensor, values: Tensor, visible_BI: Tensor, /) -> Tensor:
        """The residual of a skip."""
        ...


class Synchronizer(Protocol):
    """The published synchronizer, or its folded form."""

    @property
    def blocks(self) -> Sequence[SkipReader]:
        """A block for every skip in order, then the middle's."""
        ...

    def project(self, features_BIVD: Tensor, /) -> tuple[Tensor, ...]:
        """Every block's values of the conditioning images."""
        ...


@dataclass(frozen=True)
class Blocks:
    """How the repeated blocks are called, which make up nearly all of a step.

    Compiled one by one, they need a small graph for each shape instead of one of the whole step.
    """

    resnet: Callable[[ResnetBlock2D, Tensor, Tensor], Tensor]
    layer: Callable[[BasicTransformerBlock, Tensor, Tensor, Tensor], Tensor]
    attend: Callable[[SkipReader, Tensor, Tensor, Tensor], Tensor]

    @classmethod
    def eager(cls) -> Blocks:
        """Call them as they are."""
        return cls(_resnet, _layer, _attend_maps)


class UNetStep:
    """A U-Net with its synchronizer; without one (None), nothing is added to the skips.

    With `guide_maps` the negative half of guidance sees no image.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        synchronizer: Synchronizer | None,
        guide_maps: bool = False,
    ) -> None:
        self.unet, self.synchronizer, self.guide_maps = unet, synchronizer, guide_maps
        self.blocks = Blocks.eager()

    def prepare(
        self, image_tokens_BTW: Tensor, features_BIVD: Tensor, visible_BI: Tensor
    ) -> Conditions:
        """Compute what every step of these images shares.

        Args:
            image_tokens_BTW: what the images shall show.
            features_BIVD: positions of the conditioning images' maps, finest map first.
            visible_BI: which conditioning images exist.
        """
        pairs = [_keys_values(x, image_tokens_BTW) for x in cross_attentions(self.unet)]
        canvas = getattr(self.unet, "token_canvas", None)
        return Conditions(
            tuple(keys for keys, _ in pairs),
            tuple(values for _, values in pairs),
            () if canvas is None else (canvas(image_tokens_BTW),),
            self.synchronizer.project(features_BIVD) if self.synchronizer else (),
            visible_BI,
        )

    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions) -> Tensor:
        """Predict noise (or velocity): [N, C, H, W], N the rows of the conditions' keys."""
        unet = self.unet
        cross = _Cross(zip(conditions.keys, conditions.values, strict=True), self.blocks)
        emb_BE = unet.time_embedding(unet.time_proj(timesteps_B).to(latents_BCHW.dtype))
        sample, skips = _down(unet, latents_BCHW, emb_BE, cross)
        sample = _middle(unet.mid_block, sample, emb_BE, cross)
        if self.synchronizer is not None:
            sample, skips = self._synchronize(self.synchronizer, sample, skips, conditions)
        for canvas_NCSS in conditions.canvas:
            last = len(unet.down_blocks[0].resnets)  # Of the skips at the latents' own size.
            skips[last] = _rows_like(skips[last], canvas_NCSS) + canvas_NCSS
        sample = _up(unet, sample, skips, emb_BE, cross)
        if unet.conv_norm_out is not None:
            sample = unet.conv_act(unet.conv_norm_out(sample))
        return unet.conv_out(sample)

    def _synchronize(
        self,
        synchronizer: Synchronizer,
        sample: Tensor,
        skips: list[Tensor],
        conditions: Conditions,
    ) -> tuple[Tensor, list[Tensor]]:
        """Add every block's residual to its skip, and the last one's to the middle."""
        visible_BI = conditions.visible
        num_images, num_rows = len(visible_BI), len(conditions.keys[0])
        added = []
        for block, x, values in zip(
            synchronizer.blocks, (*skips, sample), conditions.maps, strict=True
        ):
            if self.guide_maps and num_rows > num_images:
                read = self.blocks.attend(block, x[-num_images:], values, visible_BI)
                x = x[:num_images] + block.nothing_C[:, None, None]
                added.append(torch.cat((x, read)))
            else:
                added.append(self.blocks.attend(block, x, values, visible_BI))
        return added[-1], added[:-1]


def check_supported(unet: UNet2DConditionModel) -> None:
    """Refuse U-Nets that `UNetStep` would not evaluate as diffusers does.

    Raises:
        ValueError: naming the option.
    """
    for option, accepted in _SUPPORTED.items():
        if (value := getattr(unet.config, option)) not in accepted:
            raise ValueError(f"unet.{option}={value!r} is not supported, only {accepted}")


def cross_attentions(unet: UNet2DConditionModel) -> Iterator[Attention]:
    """All cross-attentions in order of use."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for transformer in getattr(block, "attentions", None) or ():
            for layer in transformer.transformer_blocks:
                yield layer.attn2


@dataclass(frozen=True)
class _Cross:
    """Keys and values of the cross-attentions still to come, and how blocks are called."""

    keys_values: Iterator[tuple[Tensor, Tensor]]
    blocks: Blocks


def _down(
    unet: UNet2DConditionModel, latents: Tensor, emb: Tensor, cross: _Cross
) -> tuple[Tensor, list[Tensor]]:
    """The contracting path: its output and all skips."""
    sample = unet.conv_in(latents)
    skips = [sample]
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            sample = cross.blocks.resnet(resnet, sample, emb)
            if attention is not None:
                sample = _transform(attention, sample, cross)
            skips.append(sample)
        for downsampler in block.downsamplers or ():
            sample = downsampler(sample)
            skips.append(sample)
    return sample, skips


def _middle(block: UNetMidBlock2DCrossAttn, sample: Tensor, emb: Tensor, cross: _Cross) -> Tensor:
    first, *others = block.resnets
    sample = cross.blocks.resnet(first, sample, emb)
    for attention, resnet in zip(block.attentions, others, strict=True):
        sample = _transform(attention, sample, cross)
        sample = cross.blocks.resnet(resnet, sample, emb)
    return sample


def _up(
    unet: UNet2DConditionModel, sample: Tensor, skips: list[Tensor], emb: Tensor, cross: _Cross
) -> Tensor:
    """The expanding path. Upsampling to odd sizes takes the size of the next skip."""
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            sample = torch.cat((sample, _rows_like(skips.pop(), sample)), dim=1)
            sample = cross.blocks.resnet(resnet, sample, emb)
            if attention is not None:
                sample = _transform(attention, sample, cross)
        for upsampler in block.upsamplers or ():
            sample = upsampler(sample, (skips[-1].shape[2], skips[-1].shape[3]))
    return sample


def _transform(transformer: Transformer2DModel, sample: Tensor, cross: _Cross) -> Tensor:
    """Self-attention, cross-attention to the image tokens and feed-forward, over all positions."""
    height, width = sample.shape[-2:]
    hidden = transformer.norm(sample)
    if transformer.use_linear_projection:
        hidden = transformer.proj_in(hidden.flatten(2).transpose(1, 2))
    else:
        hidden = transformer.proj_in(hidden).flatten(2).transpose(1, 2)
    for layer in transformer.transformer_blocks:
        hidden = cross.blocks.layer(layer, hidden, *next(cross.keys_values))
    if transformer.use_linear_projection:
        hidden = transformer.proj_out(hidden).transpose(1, 2).unflatten(2, (height, width))
    else:
        hidden = transformer.proj_out(hidden.transpose(1, 2).unflatten(2, (height, width)))
    return hidden.contiguous() + _rows_like(sample, hidden)


def _resnet(resnet: ResnetBlock2D, sample: Tensor, emb: Tensor) -> Tensor:
    return resnet(sample, _rows_like(emb, sample))


def _attend_maps(block: SkipReader, sample: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """A skip with its residual."""
    return sample + block.attend(sample, values, visible)


def _layer(layer: BasicTransformerBlock, hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One transformer layer. From its cross-attention on, each guidance half has its own rows."""
    query = layer.norm1(hidden)
    hidden = hidden + _attend(layer.attn1, query, *_keys_values(layer.attn1, query))
    read = _attend(layer.attn2, layer.norm2(hidden), keys, values)
    hidden = _rows_like(hidden, read) + read
    return hidden + layer.ff(layer.norm3(hidden))


def _attend(attention: Attention, query_NLW: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention to computed keys and values, with the output projection."""
    query = attention.to_q(query_NLW).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    read = _softmax_attention(_rows_like(query, keys), keys, values)
    return attention.to_out[0](read.transpose(1, 2).flatten(2))


def _softmax_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention.

    Stable Diffusion's unscaled logits overflow float16. So in float16 the queries are scaled first
    and the softmax is computed in float32; the products stay in float16, as Turing GPUs need them.
    """
    if query.dtype != torch.float16:
        return F.scaled_dot_product_attention(query, keys, values)
    scale = float(query.shape[-1]) ** -0.5
    logits = torch.matmul(query * scale, keys.transpose(-1, -2))
    return torch.matmul(logits.float().softmax(-1).to(values.dtype), values)


def _keys_values(attention: Attention, source_NTW: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a sequence: [N, h, T, d] each."""
    keys, values = (
        linear(source_NTW).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for linear in (attention.to_k, attention.to_v)
    )
    return keys, values


def _rows_like(x: Tensor, like: Tensor) -> Tensor:
    """Repeat the rows of `x` for both guidance halves if `like` has both."""
    halves = like.shape[0] // x.shape[0]
    return x if halves == 1 else x.repeat(halves, *[1] * (x.ndim - 1))

"""A Llama whose layers also read images, and the heads that make logits of its states.

Legend: B batch, L new tokens, K all tokens so far, I images, V positions of an image's maps,
H heads, d width of a head, D width.

Every `cross_attention_frequency`-th layer, from the first, holds a feature synchronizer between
self-attention and feed-forward. Its values depend on the images alone (`project_images`): they are
computed once and serve every token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import LanguageModelConfig, MMInterleavedConfig
from model.positions import rotary_table, rotate
from model.synchronizer.feature_synchronizer import FeatureSynchronizer


@dataclass(frozen=True)
class VisibleImages:
    """The images of a batch of sequences, as the language model's layers see them.

    `values` holds one [B, I, V, H, d] for each layer with a synchronizer; `visible_BLI` says which
    images each of the new tokens sees.
    """

    values: tuple[Tensor, ...]
    visible_BLI: Tensor


@dataclass
class Cache:
    """Keys and values [B, H, K, d] of every layer, for tokens already processed."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def extend(self, index: int, k_BHLd: Tensor, v_BHLd: Tensor) -> tuple[Tensor, Tensor]:
        """Append new tokens to a layer; returns all of its keys and values."""
        if index == len(self.layers):
            self.layers.append((k_BHLd, v_BHLd))
        else:
            k_BHKd, v_BHKd = self.layers[index]
            self.layers[index] = (torch.cat((k_BHKd, k_BHLd), 2), torch.cat((v_BHKd, v_BHLd), 2))
        return self.layers[index]

    def reorder(self, rows_B: Tensor) -> None:
        """Keep these rows of the batch, in this order (beam search)."""
        self.layers = [(k_BHKd[rows_B], v_BHKd[rows_B]) for k_BHKd, v_BHKd in self.layers]

    def __len__(self) -> int:
        """Number of tokens so far."""
        return self.layers[0][0].shape[2] if self.layers else 0


class LanguageModel(nn.Module):
    """Embeddings, layers, final norm (`mm_decoder` in the checkpoint)."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        llm = config.llm
        self.config = llm
        self.embed_tokens = nn.Embedding(config.txt_vocab_size, llm.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, i in config.synchronizer_layers)
            for i in range(llm.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(llm.hidden_size, eps=llm.rms_norm_eps)

    def forward(
        self,
        embeds_BLD: Tensor,
        images: VisibleImages,
        attention_mask_BK: Tensor | None = None,
        positions_BL: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final hidden states of new tokens.

        Args:
            embeds_BLD: embeddings of the new tokens.
            images: what they see.
            attention_mask_BK: 0 for padding, over cached and new tokens; None means no padding.
            positions_BL: of the new tokens; None counts all tokens, padding included.
            cache: keys and values of earlier tokens, extended in place.

        Returns:
            [B, L, D] behind the final norm.
        """
        past, num = len(cache) if cache else 0, embeds_BLD.shape[1]
        if positions_BL is None:
            positions_BL = torch.arange(past, past + num, device=embeds_BLD.device).unsqueeze(0)
        rotation = rotary_table(self.config, positions_BL, embeds_BLD.dtype)
        mask_BLK = _causal_mask(past, num, attention_mask_BK, embeds_BLD.device)
        values = iter(images.values)
        hidden_BLD = embeds_BLD
        for layer in self.layers:
            values_BIVHd = next(values) if layer.llama_cross_attn is not None else None
            hidden_BLD = layer(
                hidden_BLD, rotation, mask_BLK, cache, values_BIVHd, images.visible_BLI
            )
        return self.norm(hidden_BLD)

    def project_images(self, features_BIVD: Tensor) -> tuple[Tensor, ...]:
        """Values of every synchronizer for the images of a batch: once per image."""
        attentions = (m for m in self.modules() if isinstance(m, ImageAttention))
        return tuple(attention.project(features_BIVD) for attention in attentions)


class DecoderLayer(nn.Module):
    """Self-attention, synchronizer in some layers, feed-forward."""

    def __init__(self, config: MMInterleavedConfig, index: int, synchronizes: bool) -> None:
        super().__init__()
        llm = config.llm
        self.self_attn = CausalSelfAttention(llm, index)
        self.llama_cross_attn = ImageAttention(config) if synchronizes else None
        self.mlp = FeedForward(llm.hidden_size, llm.intermediate_size)
        self.input_layernorm = nn.RMSNorm(llm.hidden_size, eps=llm.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(llm.hidden_size, eps=llm.rms_norm_eps)

    def forward(
        self,
        hidden_BLD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask_BLK: Tensor | None,
        cache: Cache | None,
        values_BIVHd: Tensor | None,
        visible_BLI: Tensor,
    ) -> Tensor:
        """[B, L, D]."""
        normed_BLD = self.input_layernorm(hidden_BLD)
        hidden_BLD = hidden_BLD + self.self_attn(normed_BLD, rotation, mask_BLK, cache)
        if self.llama_cross_attn is not None:
            assert values_BIVHd is not None
            hidden_BLD = hidden_BLD + self.llama_cross_attn(hidden_BLD, values_BIVHd, visible_BLI)
        return hidden_BLD + self.mlp(self.post_attention_layernorm(hidden_BLD))


class ImageAttention(nn.Module):
    """The gated synchronizer of a layer. The reference point of all queries is the middle."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        width, eps = config.llm.hidden_size, config.llm.rms_norm_eps
        self.gate = nn.Parameter(torch.zeros(1))
        self.attn = FeatureSynchronizer(
            d_query=width,
            d_value=config.image_embed_dim,
            d_model=config.text_synchronizer.attn_dim or width,
            d_out=width,
            spatial_shapes=config.spatial_shapes,
            base_spatial_shape=config.base_spatial_shape,
            config=config.text_synchronizer,
        )
        self.norm1 = nn.RMSNorm(width, eps=eps)
        self.norm2 = nn.RMSNorm(config.image_embed_dim, eps=eps)

    def project(self, features_BIVD: Tensor) -> Tensor:
        """Values of images, independent of any token: [B, I, V, H, d]."""
        return self.attn.project(self.norm2(features_BIVD))

    def forward(self, hidden_BLD: Tensor, values_BIVHd: Tensor, visible_BLI: Tensor) -> Tensor:
        """[B, L, D], to be added."""
        middle_112 = torch.full((1, 1, 2), 0.5, device=hidden_BLD.device)
        read_BLD = self.attn.attend(self.norm1(hidden_BLD), values_BIVHd, middle_112, visible_BLI)
        return read_BLD * self.gate.tanh()


class CausalSelfAttention(nn.Module):
    """Causal self-attention with rotary positions and grouped keys and values."""

    def __init__(self, config: LanguageModelConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_width = index, config.head_width
        inner, inner_kv = config.num_attention_heads * self.head_width, config.kv_heads
        inner_kv *= self.head_width
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner_kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner_kv, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_BLD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask_BLK: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        """[B, L, D]."""
        q_BHLd, k_BHKd, v_BHKd = (
            projection(hidden_BLD).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_BHLd, k_BHKd = rotate(q_BHLd, rotation), rotate(k_BHKd, rotation)
        if cache is not None:
            k_BHKd, v_BHKd = cache.extend(self.index, k_BHKd, v_BHKd)
        read_BHLd = F.scaled_dot_product_attention(
            q_BHLd,
            k_BHKd,
            v_BHKd,
            attn_mask=None if mask_BLK is None else mask_BLK.unsqueeze(1),
            is_causal=mask_BLK is None and q_BHLd.shape[2] > 1,
            enable_gqa=q_BHLd.shape[1] != k_BHKd.shape[1],
        )
        return self.o_proj(read_BHLd.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Gated feed-forward."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """[B, L, D]."""
        gate_BLD = F.silu(self.gate_proj(hidden_BLD))
        return self.down_proj(gate_BLD * self.up_proj(hidden_BLD))


class TextHead(nn.Module):
    """Logits (`text_decoder` in the checkpoint).

    The published head was frozen, with bias -100 for the tokens added to the vocabulary; a second
    head, trained, adds its own logits to theirs. Both terms are large and cancel, so the sum is
    formed from the parameters, in float32.
    """

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        width, self.num_old = config.llm.hidden_size, config.llm.vocab_size
        num_new = config.txt_vocab_size - self.num_old
        if num_new < 1:
            raise ValueError("txt_vocab_size must exceed llm.vocab_size by the new tokens")
        self.head = nn.Linear(width, config.txt_vocab_size)
        self.head_new = nn.Linear(width, num_new)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """New tokens start out improbable."""
        nn.init.zeros_(self.head.bias)
        self.head.weight[self.num_old :].zero_()
        self.head.bias[self.num_old :].fill_(-100.0)
        nn.init.zeros_(self.head_new.weight)
        nn.init.constant_(self.head_new.bias, 95.0)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """Logits [B, L, vocabulary], float32."""
        weight_ND, bias_N = self.new_tokens()
        head = self.head
        old_BLV = F.linear(hidden_BLD, head.weight[: self.num_old]) + head.bias[: self.num_old]
        new_BLN = F.linear(hidden_BLD.float(), weight_ND, bias_N)
        return torch.cat((old_BLV.float(), new_BLN), -1)

    def new_tokens(self) -> tuple[Tensor, Tensor]:
        """Effective weight and bias of the new tokens, float32."""
        weight_ND = self.head.weight[self.num_old :].float() + self.head_new.weight.float()
        bias_N = self.head.bias[self.num_old :].float() + self.head_new.bias.float()
        return weight_ND, bias_N


def _causal_mask(
    past: int, num: int, attention_mask_BK: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which tokens each new token attends to, [B, L, K]; None where causality alone decides."""
    if attention_mask_BK is None and (past == 0 or num == 1):
        return None
    causal_1LK = torch.ones(1, num, past + num, dtype=torch.bool, device=device).tril(past)
    if attention_mask_BK is None:
        return causal_1LK
    allowed_BLK = causal_1LK & attention_mask_BK.bool()[:, None]
    # The softmax of an empty row is undefined: padding in front attends to everything instead.
    return allowed_BLK | ~allowed_BLK.any(-1, keepdim=True)

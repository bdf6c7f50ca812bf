"""A Q-Former style resampler: learned queries read a sequence by cross-attention.

Legend: B batch, Q queries, L tokens read, H heads, d width of a head, D width.

Post-norm BERT layers over the queries; the first and then every `cross_attention_frequency`-th
also read the sequence. Module names follow the published checkpoint (`blip2qformer`). The Q-Former
of `transformers` is the same except for the norm of queries and keys, which it lacks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import PerceiverConfig
from model.visual_tokenizer.codebook import AdditiveCodebook


class PerceiverResampler(nn.Module):
    """Turns a sequence of any length into `num_queries` tokens."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.blip2qformer = QFormer(config)
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, config.hidden_size))
        nn.init.normal_(self.queries, std=0.02)
        self.codebook: AdditiveCodebook | None = None
        if config.codebook is not None:
            self.codebook = AdditiveCodebook(config.codebook, config)

    def forward(self, encoded_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Resample a sequence.

        Args:
            encoded_BLD: the sequence.
            mask_BL: non-zero for tokens to read, zero for padding; None means no padding.

        Returns:
            [B, Q, D]
        """
        read_BQD = self.read(encoded_BLD, mask_BL)
        if self.codebook is not None:
            read_BQD = self.codebook(read_BQD)
        return self.compose(read_BQD)

    def read(self, encoded_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The queries after the last layer that reads the sequence, [B, Q, D]."""
        queries_BQD = self.queries.expand(encoded_BLD.shape[0], -1, -1)
        return self.blip2qformer.read(queries_BQD, encoded_BLD, mask_BL)

    def compose(self, read_BQD: Tensor) -> Tensor:
        """The queries after the layers that only read each other, [B, Q, D]."""
        return self.blip2qformer.compose(read_BQD)

    @property
    def composing_layers(self) -> nn.ModuleList:
        """The layers after the last that reads the sequence."""
        return self.blip2qformer.layers[self.blip2qformer.num_reading :]


class QFormer(nn.Module):
    """A norm of the queries, then the layers."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        layers = (QFormerLayer(config, i) for i in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        every = config.cross_attention_frequency
        self.num_reading = (config.num_hidden_layers - 1) // every * every + 1

    @property
    def layers(self) -> nn.ModuleList:
        """All layers in order."""
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        return layers

    def read(self, queries_BQD: Tensor, encoded_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Through the last layer that reads the sequence, [B, Q, D]."""
        mask_B11L = None if mask_BL is None else mask_BL.bool()[:, None, None]
        hidden_BQD: Tensor = self.layernorm(queries_BQD)
        for layer in self.layers[: self.num_reading]:
            hidden_BQD = layer(hidden_BQD, encoded_BLD, mask_B11L)
        return hidden_BQD

    def compose(self, hidden_BQD: Tensor) -> Tensor:
        """Through the other layers, [B, Q, D]."""
        for layer in self.layers[self.num_reading :]:
            hidden_BQD = layer(hidden_BQD, None, None)
        return hidden_BQD


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention in some layers, feed-forward."""

    def __init__(self, config: PerceiverConfig, index: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention = QFormerAttention(config, width)
        self.crossattention: QFormerAttention | None = None
        if index % config.cross_attention_frequency == 0:
            self.crossattention = QFormerAttention(config, config.encoder_hidden_size)
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output_query = ResidualOutput(inner, width, config.layer_norm_eps)

    def forward(
        self, hidden_BQD: Tensor, encoded_BLD: Tensor | None, mask_B11L: Tensor | None
    ) -> Tensor:
        """[B, Q, D]; only layers with cross-attention need a sequence."""
        hidden_BQD = self.attention(hidden_BQD, hidden_BQD, None)
        if self.crossattention is not None:
            assert encoded_BLD is not None
            hidden_BQD = self.crossattention(hidden_BQD, encoded_BLD, mask_B11L)
        return self.feed_forward(hidden_BQD)

    def feed_forward(self, hidden_BQD: Tensor) -> Tensor:
        """[B, Q, D], every query by itself."""
        inner_BQD = F.gelu(self.intermediate_query["dense"](hidden_BQD))
        return self.output_query(inner_BQD, hidden_BQD)


class QFormerAttention(nn.Module):
    """Attention with its output projection, residual and norm."""

    def __init__(self, config: PerceiverConfig, source_width: int) -> None:
        super().__init__()
        self.attention = NormedAttention(config, source_width)
        self.output = ResidualOutput(config.hidden_size, config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden_BQD: Tensor, source_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """[B, Q, D]."""
        read_BQD = self.attention(hidden_BQD, source_BLD, mask_B11L)
        return self.output(read_BQD, hidden_BQD)


class ResidualOutput(nn.Module):
    """Projection, residual and norm, in post-norm order."""

    def __init__(self, d_in: int, d_out: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(d_in, d_out)
        self.LayerNorm = nn.LayerNorm(d_out, eps=eps)

    def forward(self, inner_BQD: Tensor, residual_BQD: Tensor) -> Tensor:
        """[B, Q, D]."""
        return self.LayerNorm(self.dense(inner_BQD) + residual_BQD)


class NormedAttention(nn.Module):
    """Multi-head attention, with normalised queries and keys if so configured."""

    def __init__(self, config: PerceiverConfig, source_width: int) -> None:
        super().__init__()
        width, self.n_heads = config.hidden_size, config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.q_norm, self.k_norm = (self._norm(config) for _ in range(2))

    def _norm(self, config: PerceiverConfig) -> nn.Module:
        """A norm over the width of a head, or the identity."""
        if not config.qk_normalization:
            return nn.Identity()
        return nn.LayerNorm(config.hidden_size // self.n_heads, eps=config.layer_norm_eps)

    def forward(self, hidden_BQD: Tensor, source_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """Read `source_BLD` where the mask allows: [B, Q, D]."""
        q_BHQd, k_BHLd = self._matched(hidden_BQD, source_BLD)
        v_BHLd = self._heads(self.value(source_BLD))
        out_BHQd = F.scaled_dot_product_attention(q_BHQd, k_BHLd, v_BHLd, attn_mask=mask_B11L)
        return out_BHQd.transpose(1, 2).flatten(2)

    def logits(self, hidden_BQD: Tensor, source_BLD: Tensor) -> Tensor:
        """Of the attention, before its softmax: [B, H, Q, L]."""
        q_BHQd, k_BHLd = self._matched(hidden_BQD, source_BLD)
        return q_BHQd @ k_BHLd.transpose(-1, -2) / q_BHQd.shape[-1] ** 0.5

    def _matched(self, hidden_BQD: Tensor, source_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of every head."""
        q_BHQd = self.q_norm(self._heads(self.query(hidden_BQD)))
        return q_BHQd, self.k_norm(self._heads(self.key(source_BLD)))

    def _heads(self, x_BLD: Tensor) -> Tensor:
        """[B, H, L, d]."""
        return x_BLD.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

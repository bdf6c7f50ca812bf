"""A Llama language model from a GGUF file: sizes, float32 weights, tokenizer.

llama.cpp stores the rows of query and key projections with the two halves of a head's channels
interleaved, because it rotates neighbouring channels; `tensors` restores their order.

transformers reads the same tensors (a test compares them), but all at once, and its tokenizer of
this family does not split numbers into digits, which changes ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model.config.schema import LanguageModelConfig

_CONTROL = 3  # The type of control tokens.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ENDS = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "head"}


class GgufLanguageModel:
    """One file, read on demand."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ValueError: it holds no Llama.
        """
        self._reader = GGUFReader(path)
        if (kind := self._field("general.architecture")) != "llama":
            raise ValueError(f"{path} holds a {kind}, not a llama")

    @cached_property
    def config(self) -> LanguageModelConfig:
        """The sizes of the model."""
        names = {tensor.name for tensor in self._reader.tensors}
        return LanguageModelConfig(
            hidden_size=self._field("llama.embedding_length"),
            num_hidden_layers=self._field("llama.block_count"),
            num_attention_heads=self._field("llama.attention.head_count"),
            intermediate_size=self._field("llama.feed_forward_length"),
            vocab_size=len(self._field("tokenizer.ggml.tokens")),
            num_key_value_heads=self._field("llama.attention.head_count_kv"),
            rms_norm_eps=round(self._field("llama.attention.layer_norm_rms_epsilon"), 9),
            rope_theta=self._field("llama.rope.freq_base"),
            max_position_embeddings=self._field("llama.context_length"),
            tie_word_embeddings="output.weight" not in names,
        )

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names within the language model, and weights in float32."""
        heads = {"attn_q": self.config.num_attention_heads, "attn_k": self.config.kv_heads}
        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=True)
            weight = torch.from_numpy(values)
            prefix, _, rest = tensor.name.partition(".")
            if prefix != "blk":
                yield f"{_ENDS[prefix]}.weight", weight
                continue
            index, part, _ = rest.split(".")
            if part in heads:
                weight = _halves_apart(weight, heads[part])
            yield f"layers.{index}.{_LAYER[part]}.weight", weight

    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE, with single digits; control tokens are special.

        Raises:
            ValueError: it splits text in another way.
        """
        if (kind := self._field("tokenizer.ggml.pre")) != "smollm":
            raise ValueError(f"unknown way to split text: {kind}")
        tokens = self._field("tokenizer.ggml.tokens")
        merges = [tuple(m.split(" ")) for m in self._field("tokenizer.ggml.merges")]
        vocab = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        types = self._field("tokenizer.ggml.token_type")
        control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in control]
        )
        return tokenizer

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of the file, if it has one."""
        name = "tokenizer.chat_template"
        return self._field(name) if name in self._reader.fields else None

    def _field(self, name: str) -> Any:
        return self._reader.fields[name].contents()


def _halves_apart(weight_OI: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorder the rows of each head from neighbouring pairs to halves."""
    pairs = weight_OI.unflatten(0, (num_heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()

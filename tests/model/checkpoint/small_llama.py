"""A small random Llama in a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import torch

from model.checkpoint import store
from model.checkpoint.packaged import base_model, low_rank
from model.checkpoint.packaged.base_model import BaseModel, is_base_tensor
from model.config.presets import preset
from model.config.schema import LanguageModelConfig, MMInterleavedConfig, SpecialTokens
from model.mm_interleaved import MMInterleaved
from model.training.parameters import LowRankAdapter
from model.training.weights.start import initialise

SIZES = LanguageModelConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    vocab_size=260,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    rope_theta=100000.0,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def config_around(llm: LanguageModelConfig = SIZES, **changes: Any) -> MMInterleavedConfig:
    """Preset `tiny` with another language model."""
    tiny = preset("tiny")
    perceiver = replace(tiny.image_decoder.perceiver, encoder_hidden_size=llm.hidden_size)
    decoder = replace(tiny.image_decoder, perceiver=perceiver)
    return replace(
        tiny,
        **{"llm": llm, "txt_vocab_size": llm.vocab_size, "image_decoder": decoder} | changes,
    )


def as_package(path: Path) -> BaseModel:
    """The file as if it had come in a package."""
    return BaseModel("small", "1", "gguf", str(path), store.sha256_of(path))


def model_around(base: BaseModel) -> MMInterleaved:
    """A random model around the packaged one, which is frozen as in training."""
    special = SpecialTokens(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        soi_token_id=SIZES.vocab_size,
        image_token_id=SIZES.vocab_size + 1,
    )
    torch.manual_seed(0)
    config = config_around(txt_vocab_size=SIZES.vocab_size + 2, special_tokens=special)
    model = MMInterleaved(config)
    initialise(model)
    base_model.load_base(model, base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_base_tensor(name))
    return model


def updated(
    model: MMInterleaved, rank: int = 3, earlier: low_rank.Update = MappingProxyType({})
) -> low_rank.Update:
    """Change the model as if training had moved both factors of a low-rank update."""
    adapter = LowRankAdapter(model, rank, earlier=earlier)
    for name, parameter in model.mm_decoder.named_parameters():
        if "lora_" in name:
            assert parameter.requires_grad
            torch.nn.init.normal_(parameter, std=0.1)
    return adapter.merge()


def write(path: Path) -> None:
    """Write the file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(SIZES.num_hidden_layers)
    writer.add_context_length(SIZES.max_position_embeddings)
    writer.add_embedding_length(SIZES.hidden_size)
    writer.add_feed_forward_length(SIZES.intermediate_size)
    writer.add_head_count(SIZES.num_attention_heads)
    writer.add_head_count_kv(SIZES.kv_heads)
    writer.add_layer_norm_rms_eps(SIZES.rms_norm_eps)
    writer.add_rope_freq_base(SIZES.rope_theta)
    writer.add_rope_dimension_count(SIZES.head_width)
    writer.add_vocab_size(SIZES.vocab_size)
    _add_tokenizer(writer)
    generator = torch.Generator().manual_seed(3)
    for name, shape in _shapes().items():
        values = torch.randn(shape, generator=generator) * (1 if len(shape) == 1 else 0.1)
        writer.add_tensor(name, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "Ġa"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ a"])
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _shapes() -> dict[str, tuple[int, ...]]:
    width, inner, kv = SIZES.hidden_size, SIZES.intermediate_size, 32
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (SIZES.vocab_size, width)}
    for layer in range(SIZES.num_hidden_layers):
        parts = {"attn_norm": (width,), "attn_q": (width, width), "attn_k": (kv, width)}
        parts |= {"attn_v": (kv, width), "attn_output": (width, width), "ffn_norm": (width,)}
        parts |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return shapes | {"output_norm.weight": (width,)}

"""A synthetic checkpoint in the official layout, made of recorded or random tensors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor

from model.checkpoint import load
from model.config.schema import MMInterleavedConfig

# The first text is enough for some hundred pieces; larger vocabularies take all of them.
CORPORA = (
    topics["assert"] + topics["if"] + topics["for"],
    "".join(topics.values()),
    "".join(topics.values()) + " ".join(str(number**3) for number in range(100_000)),
)


def write_layout(
    root: Path, state: dict[str, Tensor], config: MMInterleavedConfig, num_shards: int = 3
) -> Path:
    """Shards below OUTPUT/, component directories below assets/, as the official project has it."""
    weights = root / "OUTPUT/mm_interleaved_pretrain"
    weights.mkdir(parents=True)
    names = list(state)
    for number in range(num_shards):
        part = {name: state[name].clone() for name in names[number::num_shards]}
        torch.save(part, weights / f"pytorch_model-{number + 1:05d}-of-{num_shards:05d}.bin")
    write_components(root / "assets", config)
    return root


def write_components(assets: Path, config: MMInterleavedConfig) -> None:
    llm, decoder = config.llm, config.image_decoder
    write_json(
        assets / "lmsys/vicuna/config.json",
        {
            "model_type": "llama",
            "num_attention_heads": llm.num_attention_heads,
            "rms_norm_eps": llm.rms_norm_eps,
            "rope_theta": llm.rope_theta,
            "max_position_embeddings": llm.max_position_embeddings,
            "bos_token_id": config.special_tokens.bos_token_id,
            "eos_token_id": config.special_tokens.eos_token_id,
        },
    )
    vision = {
        "num_attention_heads": config.vision.num_attention_heads,
        "layer_norm_eps": config.vision.layer_norm_eps,
    }
    write_json(assets / "openai/clip/config.json", {"model_type": "clip", "vision_config": vision})
    stable_diffusion = assets / "stabilityai/sd"
    write_json(stable_diffusion / "model_index.json", {})
    write_json(
        stable_diffusion / "unet/config.json",
        {"_class_name": "UNet2DConditionModel", **decoder.unet},
    )
    write_json(stable_diffusion / "vae/config.json", dict(decoder.vae))
    write_json(stable_diffusion / "scheduler/scheduler_config.json", dict(decoder.scheduler))
    write_sentencepiece(assets / "lmsys/vicuna", config)


def write_settings(path: Path, config: MMInterleavedConfig) -> Path:
    """The part of the official YAML that says what no shape shows and no component."""
    decoder, special, vocab_size = (
        config.image_decoder,
        config.special_tokens,
        config.llm.vocab_size,
    )
    model: dict[str, Any] = {
        "image_decoder_config": {
            "sd_base_seed": decoder.base_seed,
            "perceiver_config": {"num_attention_heads": decoder.perceiver.num_attention_heads},
        }
    }
    grid = config.vision.grid_size
    if config.seq_len != 2048:
        model["seq_len"] = config.seq_len
    if config.spatial_shapes != (2 * grid, grid, grid // 2):
        model["spatial_shapes"] = list(config.spatial_shapes)
    if (special.pad_token_id, special.soi_token_id) != (vocab_size - 1, vocab_size):
        model["special_token_dict"] = asdict(special)
    path.write_text(json.dumps({"model": model}))
    return path


def write_sentencepiece(directory: Path, config: MMInterleavedConfig) -> Path:
    """A tokenizer.model of the kind that Llama has, of exactly as many pieces as configured."""
    corpus, model = directory / "corpus.txt", directory / "tokenizer.model"
    for text in CORPORA:
        corpus.write_text(text)
        SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(directory / "tokenizer"),
            vocab_size=config.llm.vocab_size,
            model_type="bpe",
            byte_fallback=True,
            bos_id=config.special_tokens.bos_token_id,
            eos_id=config.special_tokens.eos_token_id,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        pieces = SentencePieceProcessor(model_file=str(model))
        if pieces.vocab_size() == config.llm.vocab_size:
            break
    corpus.unlink()
    return model


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def silent(_name: str, _done: int, _total: int) -> None:
    pass


def read_all(directory: Path) -> dict[str, Tensor]:
    return dict(load.iter_tensors(directory))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name

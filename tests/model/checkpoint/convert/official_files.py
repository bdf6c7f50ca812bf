"""A synthetic checkpoint in the official layout, made of recorded or random tensors."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from model.checkpoint import load
from model.config.schema import MMInterleavedConfig

CORPUS = topics["assert"] + topics["if"] + topics["for"]


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
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    )
    heads = {"num_attention_heads": config.vision.num_attention_heads}
    write_json(assets / "openai/clip/config.json", {"model_type": "clip", "vision_config": heads})
    stable_diffusion = assets / "stabilityai/sd"
    write_json(stable_diffusion / "model_index.json", {})
    write_json(
        stable_diffusion / "unet/config.json",
        {"_class_name": "UNet2DConditionModel", **decoder.unet},
    )
    write_json(stable_diffusion / "vae/config.json", dict(decoder.vae))
    write_json(stable_diffusion / "scheduler/scheduler_config.json", dict(decoder.scheduler))
    write_sentencepiece(assets / "lmsys/vicuna", config.llm.vocab_size)


def write_settings(path: Path, config: MMInterleavedConfig) -> Path:
    """The part of the official YAML that says what no shape shows."""
    heads = config.image_decoder.perceiver.num_attention_heads
    path.write_text(
        "model:\n  image_decoder_config:\n    sd_base_seed: 42\n"
        f"    perceiver_config:\n      num_attention_heads: {heads}\n"
    )
    return path


def write_sentencepiece(directory: Path, vocab_size: int) -> Path:
    """A tokenizer.model of the kind that Llama has, of exactly that many pieces."""
    corpus = directory / "corpus.txt"
    corpus.write_text(CORPUS)
    SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    corpus.unlink()
    return directory / "tokenizer.model"


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

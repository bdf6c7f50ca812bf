"""A random checkpoint for first starts and tests, made without any download.

Every path of the model carries signal: no gate, zero-convolution or ignore token is zero. The
biases of the output heads are set so that an image begins, or the text ends, after some tens of
tokens. Ids without a spelling are never sampled.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.checkpoint import store
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.processor import IMAGE_TOKEN, SOI_TOKEN

# Constants of the architecture, which stay as they are.
_CONSTANTS = ("pos_embed", "clip_mean", "clip_std", "position_ids", "inv_freq")

_IMAGE_EVERY_TOKENS = 40
_END_EVERY_TOKENS = 150
_NEVER = -30.0


def create(preset_name: str, directory: Path | str, seed: int = 0) -> Path:
    """Write the seeded checkpoint of a preset into `directory`, whole or not at all."""
    return create_from(preset(preset_name), directory, seed)


def create_from(config: MMInterleavedConfig, directory: Path | str, seed: int = 0) -> Path:
    """Write a seeded checkpoint of any configuration into `directory`, whole or not at all."""
    from model.mm_interleaved import MMInterleaved

    directory = Path(directory)
    model = MMInterleaved(config).eval()
    randomise(model, config, seed)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    store.save_model(model, build_tokenizer(config), partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return directory


@torch.no_grad()
def randomise(model: torch.nn.Module, config: MMInterleavedConfig, seed: int) -> None:
    """Fill a model with random values that are functions of tensor name and seed."""
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[2] not in _CONSTANTS and tensor.is_floating_point():
            tensor.copy_(_random_like(name, tensor, seed))
    _bias_heads(model.state_dict(), config)


def _random_like(name: str, tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """A random value for the tensor of that name, of a scale that keeps activations near one."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    noise = torch.randn(tensor.shape, generator=generator)
    leaf = name.rpartition(".")[2]
    if leaf == "gate":
        return 0.7 + 0.1 * noise
    if leaf == "gamma":
        return 0.5 + 0.1 * noise
    if leaf in ("running_var", "running_mean"):
        return noise.mul(0.1).add(float(leaf == "running_var")).abs()
    if leaf == "weight" and tensor.dim() == 1:
        return 1 + 0.1 * noise
    if tensor.dim() == 1:
        return 0.1 * noise
    if leaf == "weight" and "embed" not in name:
        return noise / math.sqrt(tensor[0].numel())
    return noise * 0.5


def _bias_heads(state: dict[str, torch.Tensor], config: MMInterleavedConfig) -> None:
    """Set the output biases so that images begin, and texts end, at the intended rates."""
    special, vocab_size = config.special_tokens, config.llm.vocab_size
    head, head_new = state["text_decoder.head.bias"], state["text_decoder.head_new.bias"]
    # Logits of a random head are standard normal, so their log-sum-exp is about this.
    log_total = math.log(vocab_size) + 0.5
    head.zero_()
    head[vocab_size:] = -100.0
    head_new.fill_(100.0 + _NEVER)
    head_new[special.soi_token_id - vocab_size] = 100 + log_total - math.log(_IMAGE_EVERY_TOKENS)
    head[special.eos_token_id] = log_total - math.log(_END_EVERY_TOKENS)
    for index in {special.bos_token_id, special.pad_token_id} - {special.eos_token_id}:
        head[index] = _NEVER


def build_tokenizer(config: MMInterleavedConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with exactly the configured ids.

    Its merges are learned from the reference text that ships with Python.

    Raises:
        ValueError: the vocabulary is too small to spell every byte.
    """
    from pydoc_data.topics import topics

    special = config.special_tokens
    names = {special.pad_token_id: "<pad>", special.bos_token_id: "<s>"}
    names |= {special.eos_token_id: "</s>", special.soi_token_id: SOI_TOKEN}
    names[special.image_token_id] = IMAGE_TOKEN
    return tokenizer_from_texts(list(topics.values()), names, config.txt_vocab_size)


def tokenizer_from_texts(
    texts: list[str], special: dict[int, str], vocab_size: int
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from texts, with special tokens at given ids.

    Raises:
        ValueError: the vocabulary is too small to spell every byte.
    """
    free = [index for index in range(vocab_size) if index not in special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if len(free) < len(alphabet):
        raise ValueError(f"a vocabulary of {vocab_size} cannot spell every byte")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=len(free), initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    return _with_ids(learner, free, special)


def _with_ids(
    learner: Tokenizer, free: list[int], special: dict[int, str]
) -> PreTrainedTokenizerFast:
    """The learned tokenizer, its pieces moved to the free ids in the order of learning."""
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    pieces += [f"<unused_{index}>" for index in free[len(pieces) :]]
    vocab = dict(zip(pieces, free, strict=True)) | {name: i for i, name in special.items()}
    merges = [cast(tuple[str, str], tuple(pair)) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for _, name in sorted(special.items())]
    )
    by_name = {name: index for index, name in special.items()}
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **{role: name for role, name in roles.items() if name in by_name},
    )

"""The tokenizer of the small language model: byte-level BPE learned from the world's own text."""

from __future__ import annotations

import random

from transformers import PreTrainedTokenizerFast

from model.checkpoint.seeded import tokenizer_from_texts
from model.config.schema import MMInterleavedConfig
from model.processor import IMAGE_TOKEN, SOI_TOKEN
from model.training.world.examples import TASKS
from model.training.world.objects import OBJECT_SETS

_EXAMPLES_PER_TASK = 1500
_SEED = 11


def world_tokenizer(config: MMInterleavedConfig) -> PreTrainedTokenizerFast:
    """A tokenizer with the configured ids that knows the world's words and can spell all others."""
    from pydoc_data.topics import topics

    special = config.special_tokens
    names = {special.pad_token_id: "<pad>", special.bos_token_id: "<s>"}
    names |= {special.eos_token_id: "</s>", special.soi_token_id: SOI_TOKEN}
    names[special.image_token_id] = IMAGE_TOKEN
    return tokenizer_from_texts([*world_texts(), *topics.values()], names, config.txt_vocab_size)


def world_texts() -> list[str]:
    """Every text of some examples of each task and set of objects."""
    rng = random.Random(_SEED)
    texts: list[str] = []
    for draw in TASKS.values():
        for _ in range(_EXAMPLES_PER_TASK):
            example = draw(rng, "+".join(OBJECT_SETS))
            texts += [p for p in (*example.prompt, *example.answer) if isinstance(p, str)]
    return texts

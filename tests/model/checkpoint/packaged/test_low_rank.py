"""A low-rank update of a package's language model: learned, kept in a checkpoint, merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import load, store
from model.checkpoint.packaged import base_model, low_rank
from model.checkpoint.packaged.base_model import BaseModel, is_base_tensor
from model.config.schema import ConfigError
from model.mm_interleaved import IMAGE, MMInterleaved
from model.training.parameters import LowRankAdapter
from model.training.recipe import Recipe
from model.vllm_plugin.config import write_view
from tests.model.checkpoint import small_llama
from tests.model.checkpoint.small_llama import updated

RANK = 3
_BETWEEN_HALVES = 2e-3  # Relative: factors and weights of a view are float16.


@pytest.fixture
def base(gguf_path: Path) -> BaseModel:
    return small_llama.as_package(gguf_path)


@pytest.fixture
def model(base: BaseModel) -> MMInterleaved:
    return small_llama.model_around(base)


def test_only_factors_and_what_learned_before_learn(model: MMInterleaved) -> None:
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    LowRankAdapter(model, RANK)
    now = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned <= now
    assert all(".lora_" in name for name in now - learned)
    matrices = 7 * small_llama.SIZES.num_hidden_layers
    assert len(now - learned) == 2 * matrices


def test_update_is_what_the_weights_changed_by(model: MMInterleaved) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update = updated(model, RANK)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == update.keys()
    for name, factors in update.items():
        assert factors.down_RI.shape[0] == RANK
        torch.testing.assert_close(factors.added_to(before[name]), after[name])


@pytest.mark.parametrize("rank", [RANK, RANK + 2])
def test_update_goes_on_learning(model: MMInterleaved, rank: int) -> None:
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = updated(model, RANK)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unchanged = LowRankAdapter(model, rank, earlier=first).merge()
    for name, factors in unchanged.items():
        assert len(factors.down_RI) == rank
        torch.testing.assert_close(factors.change_OI, first[name].change_OI)
        torch.testing.assert_close(model.state_dict()[name], once[name])
    update = updated(model, rank, first)
    for name, factors in update.items():
        assert len(factors.down_RI) == rank
        torch.testing.assert_close(factors.added_to(untouched[name]), model.state_dict()[name])


def test_an_update_does_not_lose_ranks(model: MMInterleaved) -> None:
    update = updated(model, RANK)
    with pytest.raises(ConfigError, match=f"rank {RANK}"):
        LowRankAdapter(model, RANK - 1, earlier=update)


def test_checkpoint_reads_as_the_model_that_learned_twice(
    model: MMInterleaved, base: BaseModel, tmp_path: Path
) -> None:
    update = updated(model, RANK, updated(model, RANK))
    config = model.config
    directory = tmp_path / "checkpoint"
    base_model.save_trained(model, base_model.tokenizer(base, config), directory, base, update)
    assert all(len(factors.down_RI) == RANK for factors in low_rank.load_update(directory).values())
    store.verify(directory)
    read = load.load_model(directory).state_dict()
    for name, tensor in model.state_dict().items():
        _assert_near(read[name], tensor, name in update)


def test_view_for_vllm_holds_updated_weights(
    model: MMInterleaved, base: BaseModel, tmp_path: Path
) -> None:
    update, names = updated(model, RANK), base_model.tokenizer(base, model.config)
    base_model.save_trained(model, names, tmp_path / "checkpoint", base, update)
    view = write_view(tmp_path / "checkpoint", tmp_path / "view", "float32")
    files = {path.name: load_file(path) for path in view.glob("*.safetensors")}
    assert len(files) == 2  # What was trained, and the package's.
    tensors = {name: tensor for file in files.values() for name, tensor in file.items()}
    for name, tensor in model.state_dict().items():
        _assert_near(tensors[name].float(), tensor, is_base_tensor(name))


def test_view_follows_a_checkpoint_that_was_trained_further(
    model: MMInterleaved, base: BaseModel, tmp_path: Path
) -> None:
    names = base_model.tokenizer(base, model.config)
    checkpoint, view = tmp_path / "checkpoint", tmp_path / "view"
    first = updated(model, RANK)
    base_model.save_trained(model, names, checkpoint, base, first)
    write_view(checkpoint, view, "float32")
    kept = (view / "model-base.safetensors").stat()
    write_view(checkpoint, view, "float32")
    seen = (view / "model-base.safetensors").stat()
    assert (seen.st_ino, seen.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    base_model.save_trained(model, names, checkpoint, base, updated(model, RANK, first))
    write_view(checkpoint, view, "float32")
    tensors = load_file(view / "model-base.safetensors")
    for name, tensor in model.state_dict().items():
        if is_base_tensor(name):
            _assert_near(tensors[name].float(), tensor, may_differ=True)


def test_view_keeps_nothing_of_another_checkpoint_in_its_place(
    model: MMInterleaved, base: BaseModel, tmp_path: Path
) -> None:
    names = base_model.tokenizer(base, model.config)
    base_model.save_trained(model, names, tmp_path / "around", base, {})
    store.save_model(model, names, tmp_path / "whole")
    (tmp_path / "around" / "model-00001-of-00002.safetensors").touch()
    write_view(tmp_path / "around", tmp_path / "view", "float32")
    view = write_view(tmp_path / "whole", tmp_path / "view", "float32")
    assert [path.name for path in view.glob("*.safetensors")] == ["model.safetensors"]


def test_image_worker_does_without_the_package(
    model: MMInterleaved, base: BaseModel, tmp_path: Path
) -> None:
    names = base_model.tokenizer(base, model.config)
    absent = replace(base, module="no_such_module")
    base_model.save_trained(model, names, tmp_path, absent, {})
    read = load.load_model(tmp_path, IMAGE).state_dict()
    assert read.keys() == {n for n in model.state_dict() if n.startswith(IMAGE)}
    with pytest.raises(store.CheckpointError, match="not installed"):
        load.load_model(tmp_path)


def _assert_near(tensor: Tensor, wanted: Tensor, may_differ: bool) -> None:
    wanted = wanted.float()
    error = float((tensor - wanted).norm() / wanted.norm().clamp(min=1e-9))
    assert error <= _BETWEEN_HALVES * may_differ


@pytest.mark.parametrize(
    ("preset", "phase", "word"),
    [
        ("storybook", "joint", "does not train"),
        ("micro", "language", "no pre-trained language model"),
    ],
)
def test_nothing_to_update_is_refused(tmp_path: Path, preset: str, phase: str, word: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'preset = "{preset}"\n[[sft]]\nphase = "{phase}"\nlow_rank = 4\n')
    with pytest.raises(ConfigError, match=word):
        Recipe.load(path)

"""Models are loaded whole, in part, and in other types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint import load, store
from model.checkpoint.store import CheckpointError
from model.config.presets import preset
from model.mm_interleaved import TEXT, Batch, MMInterleaved


def test_loaded_model_is_whole(checkpoint: Path) -> None:
    model = load.load_model(checkpoint)
    assert not model.training
    assert all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
    config = store.load_config(checkpoint)
    assert config == preset("tiny")
    assert isinstance(model, MMInterleaved)


def test_components_can_be_loaded_alone(checkpoint: Path) -> None:
    model = load.load_model(checkpoint, components=TEXT)
    names = set(model.state_dict())
    assert not [name for name in names if name.startswith("image_decoder.decoder")]
    assert [name for name in names if name.startswith("image_decoder.perceiver_resampler")]


def test_precision_follows_the_policy(checkpoint: Path) -> None:
    model = load.load_model(checkpoint, dtype=torch.bfloat16)
    assert model.image_decoder.decoder.vae.dtype == torch.float32
    assert model.text_decoder.head_new.bias.dtype == torch.float32
    assert model.text_decoder.head.weight.dtype == torch.bfloat16
    assert model.mm_decoder.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_nearly_the_same(checkpoint: Path, dtype: torch.dtype) -> None:
    config = store.load_config(checkpoint)
    special = config.special_tokens
    image = [special.soi_token_id, *[special.image_token_id] * config.num_img_token]
    pixels_N3SS = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    chances = []
    for wanted in (torch.float32, dtype):
        model = load.load_model(checkpoint, components=TEXT, dtype=wanted)
        ids_BL = torch.tensor([[1, 10, 20, *image, 30]])
        batch = Batch(ids_BL, pixels_N3SS.to(wanted), torch.tensor([1]))
        with torch.no_grad():
            hidden_BLD = model(batch).hidden_BLD
            chances.append(model.text_decoder(hidden_BLD)[0, -1].softmax(-1))
    assert (chances[0] - chances[1]).abs().sum() < 0.1


def test_prefixes_choose_tensors(checkpoint: Path) -> None:
    names = [name for name, _ in load.iter_tensors(checkpoint, ("soi_token", "context_feat"))]
    assert sorted(names) == ["context_feat_proj.bias", "context_feat_proj.weight", "soi_token"]


def test_missing_and_misshapen_tensors_are_named(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    where = store.weight_map(checkpoint)
    del where["soi_token"]
    store.write_index(tmp_path, where, 0)
    with pytest.raises(CheckpointError, match="lacks 1 tensors: soi_token"):
        load.load_model(tmp_path)
    config = json.loads((checkpoint / store.CONFIG).read_text())
    config["llm"]["intermediate_size"] += 1
    (tmp_path / store.CONFIG).unlink()
    (tmp_path / store.CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"mlp\.\w+_proj\.weight: shape"):
        load.load_model(tmp_path)

"""What a phase has learned, from one machine to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config.schema import ConfigError
from model.mm_interleaved import MMInterleaved
from model.training.objectives.decoder.autoencoder import scale_latents
from model.training.weights.parts import load_parts, own_tensors, save_parts


@torch.no_grad()
def test_only_what_has_changed_is_written_and_read(model: MMInterleaved, tmp_path: Path) -> None:
    path = tmp_path / "parts.safetensors"
    before = {name: tensor.clone() for name, tensor in own_tensors(model).items()}
    model.soi_token.fill_(0.5)
    scale_latents(model, 0.25)
    save_parts(model, before, path)
    assert load_file(path).keys() == {"soi_token"}

    model.load_state_dict(before, strict=False)
    scale_latents(model, 1.0)
    load_parts(model, [path])
    assert (model.soi_token == 0.5).all()
    assert model.config.image_decoder.vae["scaling_factor"] == 0.25


@torch.no_grad()
def test_values_that_nearly_cancel_keep_their_precision(
    model: MMInterleaved, tmp_path: Path
) -> None:
    path = tmp_path / "parts.safetensors"
    before = {name: tensor.clone() for name, tensor in own_tensors(model).items()}
    bias = model.text_decoder.head_new.bias
    bias.fill_(94.0149)  # Beside -100 in the head; in float16 it would be 94.
    model.soi_token.fill_(0.5)
    save_parts(model, before, path)
    written = load_file(path)
    assert torch.equal(written["text_decoder.head_new.bias"], bias)
    assert written["soi_token"].dtype == torch.float16


def test_parts_of_another_model_are_refused(model: MMInterleaved, tmp_path: Path) -> None:
    scaling = {"scaling_factor": "1"}
    save_file({"other": torch.zeros(1)}, tmp_path / "x", scaling)
    with pytest.raises(ConfigError, match=f"x does not fit {model.config.name!r}: other"):
        load_parts(model, [tmp_path / "x"])
    save_file({"soi_token": torch.zeros(1)}, tmp_path / "y", scaling)
    with pytest.raises(ConfigError, match="y does not fit .*: soi_token"):
        load_parts(model, [tmp_path / "y"])

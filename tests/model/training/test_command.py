"""A recipe from its first phase to a checkpoint that answers, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import store
from model.training.command import start
from model.training.recipe import PHASES, Recipe
from service.cli import main
from tests.model.training.objectives.fixed_batch import language

_PHASE = """
[[{stage}]]
phase = "{phase}"
steps = 2
batch_size = 2
warmup_steps = 1
num_pictures = 4
"""


# `align` and `beginning` need a packaged language model, `cells` a world that knows its things one
# by one, `sketch` one that sketches its images.
_POSSIBLE = [phase for phase in PHASES if phase not in ("align", "beginning", "cells", "sketch")]


def _recipe(directory: Path) -> Path:
    path = directory / "short.toml"
    pretrain = [_PHASE.format(stage="pretrain", phase=phase) for phase in _POSSIBLE[:-1]]
    sft = _PHASE.format(stage="sft", phase=_POSSIBLE[-1])
    path.write_text('preset = "micro"\n' + "".join(pretrain) + sft)
    return path


def test_all_phases_make_a_checkpoint_that_can_be_scored(tmp_path: Path) -> None:
    common = ["--config", str(_recipe(tmp_path)), "--runs", str(tmp_path)]
    assert main(["train", "pretrain", *common]) == 0
    assert main(["train", "sft", *common]) == 0
    runs = tmp_path / "short"
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/checkpoint/manifest.json")}
    assert {path.parts[-3].partition("-")[2] for path in finished} == set(_POSSIBLE)
    assert main(["train", "pretrain", *common]) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    checkpoint = runs / "sft" / "checkpoint"
    store.verify(str(checkpoint))
    scores = tmp_path / "scores.json"
    asked = ["--world", "drawn", "--tasks", "caption", "perplexity", "--number", "1"]
    written = ["--checkpoint", str(checkpoint), "--json", str(scores)]
    assert main(["eval", *asked, *written]) == 0
    assert json.loads(scores.read_text())["scores"].keys() == {
        "caption recall",
        "story text, nats a token",
    }


def test_a_run_goes_on_from_what_others_have_learned(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    encoder, vision = (_PHASE.format(stage="pretrain", phase=p) for p in ("encoder", "vision"))
    path.write_text('preset = "micro"\n' + encoder)
    assert main(["train", "pretrain", "--config", str(path), "--runs", str(tmp_path)]) == 0
    parts = tmp_path / "short" / "pretrain" / "0-encoder" / "parts.safetensors"
    learned = load_file(parts)
    assert learned and all(name.startswith("image_decoder.decoder.vae.") for name in learned)
    (tmp_path / "encoder.safetensors").write_bytes(parts.read_bytes())

    known = 'finished = 1\nparts = ["encoder.safetensors"]\n'
    path.write_text('preset = "micro"\n' + known + encoder + vision)
    common = ["train", "pretrain", "--config", str(path), "--runs"]
    assert main([*common, str(tmp_path / "on")]) == 0
    places = tmp_path / "on" / "short" / "pretrain"
    assert not (places / "0-encoder").exists()
    result = store.load_config(places / "1-vision" / "checkpoint")
    first = store.load_config(parts.parent / "checkpoint")
    assert result.image_decoder.vae == first.image_decoder.vae
    model, _ = start(Recipe.load(path), None)
    for name, tensor in learned.items():
        assert torch.equal(model.state_dict()[name].half(), tensor), name
    path.write_text('preset = "micro"\n' + known + encoder)
    assert main([*common, str(tmp_path / "nothing left")]) == 0
    whole = tmp_path / "nothing left" / "short" / "pretrain" / "checkpoint"
    assert store.load_config(whole).image_decoder.vae == first.image_decoder.vae
    assert main([*common, str(tmp_path / "anew"), "--anew"]) == 0
    assert (tmp_path / "anew" / "short" / "pretrain" / "0-encoder" / "checkpoint").is_dir()


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Each with its own batches; gradients are averaged, and one of them writes."""
    path = tmp_path / "short.toml"
    phase = _PHASE.format(stage="pretrain", phase="language").replace("steps = 2", "steps = 1")
    path.write_text('preset = "micro"\n' + phase)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "service", "train", "pretrain", "--config", str(path)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--runs", str(tmp_path)], env=environment, check=True, timeout=300)
    place = tmp_path / "short" / "pretrain" / "0-language"
    assert len((place / "log.csv").read_text().splitlines()) == 2  # A header and one row.
    store.verify(str(place / "checkpoint"))

    # Adam's first moment after one step is a multiple of the mean gradient of the two batches.
    model, processor = start(Recipe.load(path), None)
    objective = language(model, processor, batch_size=2)
    words = objective.groups()[0].parameters[0]
    for batch in (0, 1):
        objective.losses(batch)["loss"].backward()
    assert words.grad is not None
    moment = load_file(place / "step0000001.safetensors")["optimizer.0.exp_avg"]
    torch.testing.assert_close(moment / moment.norm(), words.grad / words.grad.norm())

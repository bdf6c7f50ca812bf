"""Variants start alike, pools are fixed, intervals are about the means."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from model.config.schema import ConfigError
from model.training.ablation.build import build
from model.training.ablation.recipe import VARIANTS, AblationRecipe, Variant
from model.training.ablation.report import as_markdown, summarise
from model.training.mixture import Mixture
from model.training.stock import Stock, StorySource
from model.training.world.examples import TASKS
from service.cli import main

ROOT = Path(__file__).parents[4]
RECIPE = ROOT / "deploy" / "train" / "ablation.toml"


def test_what_two_variants_share_starts_out_equal() -> None:
    recipe = AblationRecipe(start=str(ROOT / "deploy" / "checkpoints" / "tiny"))
    whole = build(recipe, Variant(text=True, pictures=True), seed=1).state_dict()
    bare = build(recipe, Variant(text=False, pictures=False), seed=1)
    assert bare.config.synchronizer_layers == ()
    names = bare.state_dict().keys()
    assert not any("llama_cross_attn" in name or "mmfs_module" in name for name in names)
    assert any("mmfs_module" in name for name in whole)
    assert all(tensor.equal(whole[name]) for name, tensor in bare.state_dict().items())


_SHORT = """
start = "{start}"
text_seeds = [0]
picture_seeds = [0]
word_steps = 1
num_scenes = 8
num_stories = 2
text_steps = 1
text_batch_size = 2
picture_steps = 1
picture_batch_size = 2
num_questions = 16
num_held_out_stories = 1
num_inference_steps = 1
"""


@pytest.mark.slow
def test_command_writes_a_table_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(_SHORT.format(start=ROOT / "deploy" / "checkpoints" / "tiny"))
    command = ["train", "ablation", "--config", str(path), "--runs", str(tmp_path)]
    assert main(command) == 0
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "short").glob("*/*/scores.json")}
    assert len(finished) == 2 + len(VARIANTS)  # Of text with and without, and of pictures.
    table = json.loads((tmp_path / "short" / "ablation.json").read_text())
    assert table.keys() == {variant.name for variant in VARIANTS}
    for scores in table.values():
        assert scores["detail question"]["examples"] == 16
        assert scores["hero kept"]["seeds"] == 1
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())


def test_stocks_are_functions_of_their_name() -> None:
    stock = Stock.draw_lots("seen", "drawn", 6, 2)
    assert stock == Stock.draw_lots("seen", "drawn", 6, 2)
    assert not set(stock.scenes) & set(Stock.draw_lots("unseen", "drawn", 6, 2).scenes)
    for task in TASKS:
        example = stock.example(task, random.Random(1))
        assert example == stock.example(task, random.Random(1))
        assert example.task == task
        assert "story" in task or set(example.scenes) <= set(stock.scenes)
    source = Mixture({"story": 1.0, "caption": 1.0}, "drawn", stock=stock)
    assert source.draw(3, 8) == source.draw(3, 8)
    assert StorySource(stock).draw(0, 3) == list(stock.stories)
    assert StorySource(stock).draw(1, 3) == []


def test_intervals_hold_the_mean_and_grow_with_the_spread_of_seeds() -> None:
    same = summarise([{"score": [0.0, 1.0] * 50}] * 3)["score"]
    apart = summarise([{"score": [0.0] * 100}, {"score": [1.0] * 100}, {"score": [0.0, 1.0] * 50}])
    assert same["low"] < same["mean"] == 0.5 < same["high"]
    assert apart["score"]["high"] - apart["score"]["low"] > same["high"] - same["low"]
    table = as_markdown({VARIANTS[0].name: {"score": same}, VARIANTS[3].name: {}})
    assert table.splitlines()[0] == "| synchronizer in | nowhere | language model and decoder |"
    assert "0.500" in table


def test_shipped_recipe_is_valid(tmp_path: Path) -> None:
    assert AblationRecipe.load(RECIPE).text_seeds
    (tmp_path / "other.toml").write_text('start = "x"\nspeed = 3\n')
    with pytest.raises(ConfigError, match="speed"):
        AblationRecipe.load(tmp_path / "other.toml")

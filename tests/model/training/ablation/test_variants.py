"""Variants start alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.schema import ConfigError
from model.training.ablation.variants import AblationRecipe, Variant, build

ROOT = Path(__file__).parents[4]


RECIPE = ROOT / "deploy" / "train" / "ablation.toml"


def test_what_two_variants_share_starts_out_equal() -> None:
    recipe = AblationRecipe(start=str(ROOT / "deploy" / "checkpoints" / "tiny"))
    whole = build(recipe, Variant(text=True, images=True), seed=1).state_dict()
    bare = build(recipe, Variant(text=False, images=False), seed=1)
    assert bare.config.synchronizer_layers == ()
    names = bare.state_dict().keys()
    assert not any("llama_cross_attn" in name or "mmfs_module" in name for name in names)
    assert any("mmfs_module" in name for name in whole)
    assert all(tensor.equal(whole[name]) for name, tensor in bare.state_dict().items())


def test_shipped_recipe_is_valid(tmp_path: Path) -> None:
    assert AblationRecipe.load(RECIPE).text_seeds
    (tmp_path / "other.toml").write_text('start = "x"\nspeed = 3\n')
    with pytest.raises(ConfigError, match="speed"):
        AblationRecipe.load(tmp_path / "other.toml")

"""Recipes are read, and unknown names refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.schema import ConfigError
from model.training.recipe import Phase, Recipe

RECIPE = Path(__file__).parents[3] / "deploy" / "train" / "tiny.toml"


def test_shipped_recipe_is_valid() -> None:
    recipe = Recipe.load(RECIPE)
    assert [phase.phase for phase in recipe.pretrain][0] == "encoder"
    assert recipe.sft


def test_recipe_with_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('preset = "tiny"\n[[pretrain]]\nphase = "vision"\nspeed = 3\n')
    with pytest.raises(ConfigError, match="speed"):
        Recipe.load(path)


@pytest.mark.parametrize("recipe", ["tiny", "storybook"])
def test_shipped_recipes_are_valid(recipe: str) -> None:
    read = Recipe.load(Path(__file__).parents[3] / "deploy" / "train" / f"{recipe}.toml")
    assert read.sft
    assert read.pretrain[0].phase == "encoder"
    assert all(path.is_file() for path in read.parts)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    for text, word in (
        ('[[sft]]\nphase = "dream"\n', "dream"),
        ('[[sft]]\nphase = "joint"\nfrozen = ["legs"]\n', "legs"),
        ('[[sft]]\nphase = "joint"\nspeed = 3\n', "speed"),
    ):
        path.write_text(f'preset = "micro"\n{text}')
        with pytest.raises(ConfigError, match=word):
            Recipe.load(path)


@pytest.mark.parametrize(
    ("preset", "phase", "word"),
    [
        ("micro", "language", "'micro' has no pre-trained language model"),
        ("storybook", "joint", "does not train"),
    ],
)
def test_only_the_language_of_a_chat_model_is_kept(preset: str, phase: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Recipe(preset, sft=(Phase(phase, chat_weight=1.0),))
    kept = Recipe("storybook", sft=(Phase("language", chat_weight=1.0),))
    assert kept.sft[0].chat_weight


def test_only_phases_of_pretrain_are_finished() -> None:
    first, second, third = (Phase(name) for name in ("encoder", "vision", "pictures"))
    recipe = Recipe("micro", finished=1, pretrain=(first, second), sft=(third,))
    assert recipe.to_run("pretrain") == [(1, second)]
    assert recipe.to_run("sft") == [(0, third)]

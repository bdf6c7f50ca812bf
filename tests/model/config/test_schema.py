from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config.presets import PRESETS, preset
from model.config.schema import ConfigError, MMInterleavedConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_its_file(name: str, tmp_path: Path) -> None:
    config = preset(name)
    config.save(tmp_path / "config.json")
    loaded = MMInterleavedConfig.load(tmp_path / "config.json")
    assert loaded.to_dict() == config.to_dict()
    assert loaded.special_tokens == config.special_tokens
    assert loaded.vision.interaction_indexes == config.vision.interaction_indexes


def document(**changes: Any) -> dict[str, Any]:
    return preset("tiny").to_dict() | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, r"config: unknown keys \['colour'\]"),
        ({"special_tokens": {"bos": 1}}, r"config.special_tokens: unknown keys \['bos'\]"),
        ({"vision": {"hidden_size": 8}}, "config.vision: .*intermediate_size"),
        ({"num_img_token": 3}, "num_img_token must equal"),
        ({"spatial_shapes": [7]}, "not all among the adapter's maps"),
    ],
)
def test_a_document_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MMInterleavedConfig.from_dict(document(**changes))


def test_the_widths_of_language_model_and_perceiver_must_agree() -> None:
    config = preset("tiny")
    with pytest.raises(ConfigError, match="must be the LLM's width"):
        replace(config, llm=replace(config.llm, hidden_size=64))


def test_sizes_that_follow_from_others() -> None:
    config = preset("13b")
    assert config.vision.grid_size == 16
    assert config.vision.map_sizes == (64, 32, 16, 8)
    assert config.num_image_vectors == 32 * 32 + 16 * 16 + 8 * 8
    assert config.vectors_per_token == 21
    assert config.image_decoder.latent_size == 64
    assert config.llm.head_width == 128
    assert config.synchronizer_layers == tuple(range(0, 40, 4))
    assert replace(config, synchronize_text=False).synchronizer_layers == ()

"""Sizes are derived from shapes and components."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from model.checkpoint import store
from model.checkpoint.convert.from_official import ConvertOptions, convert, expected_shapes
from model.checkpoint.convert.official.layout import OfficialLayout
from model.checkpoint.convert.official.sizes import derive_config
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from tests.model import golden
from tests.model.checkpoint.convert import official_files as official
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent


def test_configuration_is_derived_from_shapes_and_components(converted: Path) -> None:
    derived, recorded = store.load_config(converted), golden.config()
    same = replace(
        derived,
        name=recorded.name,
        llm=replace(derived.llm, num_key_value_heads=None, head_dim=None),
    )
    assert same == recorded


def test_other_sizes(tmp_path: Path) -> None:
    """Grouped-query attention, one synchronizer, two tokens more: all derived from shapes."""
    config = other_config()
    from model.checkpoint.seeded import randomise
    from model.mm_interleaved import MMInterleaved

    model = MMInterleaved(config)
    randomise(model, config, seed=3)
    root = official.write_layout(tmp_path / "in", dict(model.state_dict()), config, num_shards=2)
    official.write_settings(root / "mm_inference.yaml", config)
    derived = convert(root, tmp_path / "out", ConvertOptions(), silent)
    assert replace(derived, name=config.name, llm=config.llm) == config
    assert derived.llm.kv_heads == config.llm.kv_heads
    assert_same(read_all(tmp_path / "out"), dict(model.state_dict()))


def test_published_configuration_shows_in_the_shapes(tmp_path: Path) -> None:
    """Without any component directory, what shapes do not show is taken as published."""
    published = preset("13b")
    derived = derive_config(expected_shapes(published), OfficialLayout(()))
    llm = replace(derived.llm, num_key_value_heads=None, head_dim=None)
    assert replace(derived, name="13b", llm=llm) == published


def other_config() -> MMInterleavedConfig:
    recorded = golden.config()
    return replace(
        recorded,
        name="other",
        llm=replace(
            recorded.llm,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=400,
        ),
        txt_vocab_size=402,
        num_img_token=5,
        visual_perceiver=replace(recorded.visual_perceiver, num_queries=5),
        image_decoder=replace(
            recorded.image_decoder,
            perceiver=replace(
                recorded.image_decoder.perceiver, encoder_hidden_size=96, num_attention_heads=2
            ),
        ),
        special_tokens=replace(
            recorded.special_tokens, pad_token_id=399, soi_token_id=400, image_token_id=401
        ),
        cross_attention_frequency=2,
        text_synchronizer=replace(recorded.text_synchronizer, n_heads=4, n_points=6, ratio=0.25),
    )

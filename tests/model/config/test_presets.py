from __future__ import annotations

import pytest

from model.config.presets import PRESETS, preset
from model.config.schema import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_consistent(name: str) -> None:
    config, special = preset(name), preset(name).special_tokens
    assert config.name == name
    ids = (special.bos_token_id, special.soi_token_id, special.image_token_id, special.pad_token_id)
    assert max(ids) < config.txt_vocab_size
    assert {special.soi_token_id, special.image_token_id} <= set(
        range(config.llm.vocab_size, config.txt_vocab_size)
    )
    decoder = config.image_decoder
    assert decoder.unet["cross_attention_dim"] == decoder.perceiver.hidden_size
    assert decoder.unet["in_channels"] == decoder.vae["latent_channels"]
    assert decoder.unet["sample_size"] == decoder.latent_size
    assert decoder.latent_size % 2 ** (len(decoder.unet["block_out_channels"]) - 1) == 0


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown preset '7b'; known: .*13b"):
        preset("7b")

from __future__ import annotations

from model.config.published import published


def test_sizes_of_the_published_checkpoint() -> None:
    config = published()
    assert (config.llm.hidden_size, config.llm.num_hidden_layers) == (5120, 40)
    assert (config.vision.hidden_size, config.vision.num_hidden_layers) == (1024, 24)
    assert (config.num_img_token, config.txt_vocab_size) == (64, 32002)
    assert config.image_decoder.image_size == 512
    assert list(config.image_decoder.unet["block_out_channels"]) == [320, 640, 1280, 1280]
    assert int(config.llm.hidden_size * config.text_synchronizer.ratio) == config.image_embed_dim

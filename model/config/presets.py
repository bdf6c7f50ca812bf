"""Named configurations: the published sizes, and small ones for small machines.

`13b` is the published checkpoint. `tiny` is a whole model for two CPU cores. `bench` has the
published ratios at about 170 M parameters. `micro` is for experiments. `storybook` is built around
a pre-trained language model of 135 M parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from model.config.published import SD_SCHEDULER, published
from model.config.schema import (
    CodebookConfig,
    ConfigError,
    ImageDecoderConfig,
    LanguageModelConfig,
    MMInterleavedConfig,
    PerceiverConfig,
    SpecialTokens,
    SynchronizerConfig,
    VisionConfig,
)


def preset(name: str) -> MMInterleavedConfig:
    """The configuration of a named preset.

    Raises:
        ConfigError: there is no preset of that name.
    """
    try:
        return PRESETS[name]()
    except KeyError:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}") from None


def _tiny() -> MMInterleavedConfig:
    """A complete model for two CPU cores: 96-pixel vision and images, a vocabulary of its own."""
    return MMInterleavedConfig(
        name="tiny",
        llm=LanguageModelConfig(
            hidden_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=512,
            vocab_size=2048,
            max_position_embeddings=1024,
        ),
        vision=VisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_attention_heads=4,
            num_hidden_layers=4,
            image_size=96,
            patch_size=12,
            conv_inplane=32,
            interaction_indexes=((0, 0), (1, 1), (2, 2), (3, 3)),
        ),
        visual_perceiver=PerceiverConfig(
            num_queries=16,
            hidden_size=128,
            encoder_hidden_size=128,
            cross_attention_frequency=2,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            qk_normalization=True,
        ),
        image_decoder=_tiny_decoder(),
        special_tokens=_tokens_behind(2048),
        txt_vocab_size=2050,
        seq_len=1024,
        num_img_token=16,
        cross_attention_frequency=3,
        spatial_shapes=(16, 8, 4),
        base_spatial_shape=8,
        text_synchronizer=SynchronizerConfig(n_heads=8, n_points=8, ratio=0.5),
    )


def _tokens_behind(vocab_size: int) -> SpecialTokens:
    """Special ids for a vocabulary trained here: both image tokens follow it."""
    return SpecialTokens(
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        soi_token_id=vocab_size,
        image_token_id=vocab_size + 1,
    )


def _tiny_decoder() -> ImageDecoderConfig:
    """Images of 96 x 96 from 12 x 12 latents of 16 channels."""
    return ImageDecoderConfig(
        guidance_scale=3.0,
        image_size=96,
        perceiver=PerceiverConfig(
            num_queries=77,
            hidden_size=192,
            encoder_hidden_size=256,
            cross_attention_frequency=1,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=384,
        ),
        unet=_small_unet(),
        vae=_small_vae(),
        scheduler=SD_SCHEDULER | {"prediction_type": "v_prediction"},
        synchronizer=SynchronizerConfig(
            n_heads=4, n_points=4, attn_dim=64, max_num_image_per_seq=10
        ),
    )


def _small_unet() -> Mapping[str, Any]:
    """A U-Net with cross-attention at every resolution."""
    return {
        "sample_size": 12,
        "in_channels": 16,
        "out_channels": 16,
        "block_out_channels": [64, 128],
        "layers_per_block": 1,
        "cross_attention_dim": 192,
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "norm_num_groups": 32,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    }


def _small_vae() -> Mapping[str, Any]:
    """An autoencoder with room for principal components (`objectives.decoder.autoencoder`)."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "block_out_channels": [16, 32, 64, 64],
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "sample_size": 96,
        "scaling_factor": 1.0,
        "mid_block_add_attention": False,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def _bench() -> MMInterleavedConfig:
    """About 170 M parameters at the published ratios, to measure the text stage on any machine."""
    tiny, width, vision_width = _tiny(), 1024, 256
    decoder = tiny.image_decoder
    perceiver = replace(decoder.perceiver, encoder_hidden_size=width)
    return replace(
        tiny,
        name="bench",
        llm=LanguageModelConfig(
            hidden_size=width,
            num_hidden_layers=12,
            num_attention_heads=16,
            intermediate_size=2752,
            vocab_size=4096,
        ),
        vision=VisionConfig(
            hidden_size=vision_width,
            intermediate_size=1024,
            num_attention_heads=4,
            num_hidden_layers=8,
            interaction_indexes=((0, 1), (2, 3), (4, 5), (6, 7)),
        ),
        visual_perceiver=replace(
            tiny.visual_perceiver, num_queries=64, encoder_hidden_size=vision_width
        ),
        image_decoder=replace(decoder, perceiver=perceiver),
        special_tokens=_tokens_behind(4096),
        txt_vocab_size=4098,
        seq_len=2048,
        num_img_token=64,
        cross_attention_frequency=4,
        spatial_shapes=(32, 16, 8),
        base_spatial_shape=16,
        text_synchronizer=SynchronizerConfig(ratio=0.25),
    )


def _micro() -> MMInterleavedConfig:
    """`tiny` with a small language model and an image in two tokens: experiments in minutes."""
    tiny, width = _tiny(), 128
    decoder = tiny.image_decoder
    perceiver = replace(decoder.perceiver, encoder_hidden_size=width)
    return replace(
        tiny,
        name="micro",
        llm=replace(tiny.llm, hidden_size=width, num_hidden_layers=4, intermediate_size=256),
        visual_perceiver=replace(tiny.visual_perceiver, num_queries=2),
        image_decoder=replace(decoder, perceiver=perceiver),
        num_img_token=2,
        cross_attention_frequency=2,
    )


# Four things by what, role, number, size, side, colour, pattern, token; the background by place,
# time, weather.
_STORYBOOK_FACTS = CodebookConfig(
    sizes=(239, 1, 4, 3, 3, 8, 3, 6, 16, 4, 4),
    sections=(*[tuple(range(8))] * 4, (8, 9, 10)),
    required=(0, 9, 10),
    alternatives=((), (2, 3), (1,), (1, 6), (1, 6, 5), (1, 6, 7), (1, 6, 5, 7)),
)


def _storybook() -> MMInterleavedConfig:
    """SmolLM2-135M-Instruct for the storybook world: it reads 128 pixels, and generates 192.

    36 visual tokens: five for each of six columns, and six for the place. 144 image tokens: one for
    each cell of 16 pixels.
    """
    tiny, width, vision_width = _tiny(), 576, 192
    decoder = tiny.image_decoder
    return replace(
        tiny,
        name="storybook",
        llm=LanguageModelConfig(
            hidden_size=width,
            num_hidden_layers=30,
            num_attention_heads=9,
            intermediate_size=1536,
            vocab_size=49152,
            num_key_value_heads=3,
            rms_norm_eps=1e-5,
            rope_theta=100000.0,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        vision=replace(
            tiny.vision,
            hidden_size=vision_width,
            intermediate_size=4 * vision_width,
            image_size=128,
            patch_size=16,
        ),
        visual_perceiver=replace(
            tiny.visual_perceiver,
            num_queries=36,
            hidden_size=vision_width,
            encoder_hidden_size=vision_width,
            intermediate_size=2 * vision_width,
        ),
        image_decoder=replace(
            decoder,
            image_size=192,
            perceiver=replace(
                decoder.perceiver,
                num_queries=144,
                encoder_hidden_size=width,
                # One layer reads the context, three compose the image.
                num_hidden_layers=4,
                cross_attention_frequency=4,
                intermediate_size=2048,
                codebook=_STORYBOOK_FACTS,
            ),
            token_grid=True,
            guide_maps=True,
            anchored=True,
            guidance_scale=2.0,
            unet={
                **decoder.unet,
                "sample_size": 24,
                "block_out_channels": [64, 128, 192],
                "attention_head_dim": [2, 4, 6],
                # Two channels a group would lose how channels differ; with eight the words count
                # sooner.
                "norm_num_groups": 8,
                # Attention over 24 x 24 places would be two fifths of a training step.
                "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
                "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            },
            vae={**decoder.vae, "sample_size": 192},
        ),
        # `<|endoftext|>` begins a document and `<|im_end|>` ends an answer. The padding token never
        # occurs in text. `<|im_start|>` keeps its meaning.
        special_tokens=SpecialTokens(
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=16,
            soi_token_id=49152,
            image_token_id=49153,
        ),
        txt_vocab_size=49154,
        num_img_token=36,
        cross_attention_frequency=6,
        text_synchronizer=SynchronizerConfig(n_heads=8, n_points=8, attn_dim=128),
    )


PRESETS: dict[str, Callable[[], MMInterleavedConfig]] = {
    "13b": published,
    "bench": _bench,
    "micro": _micro,
    "storybook": _storybook,
    "tiny": _tiny,
}

"""The published sizes: Vicuna-13B, CLIP ViT-L/14, Stable Diffusion 2.1."""

from __future__ import annotations

from typing import Any

from model.config.schema import (
    ImageDecoderConfig,
    LanguageModelConfig,
    MMInterleavedConfig,
    PerceiverConfig,
    VisionConfig,
)

SD_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}


def published() -> MMInterleavedConfig:
    """Vicuna-13B, CLIP ViT-L/14, Stable Diffusion 2.1: the sizes of the published checkpoint."""
    return MMInterleavedConfig(
        name="13b",
        llm=LanguageModelConfig(
            hidden_size=5120,
            num_hidden_layers=40,
            num_attention_heads=40,
            intermediate_size=13824,
            vocab_size=32000,
        ),
        vision=VisionConfig(hidden_size=1024, intermediate_size=4096, num_attention_heads=16),
        visual_perceiver=PerceiverConfig(
            num_queries=64,
            hidden_size=768,
            encoder_hidden_size=1024,
            cross_attention_frequency=2,
            num_hidden_layers=12,
            num_attention_heads=12,
            qk_normalization=True,
        ),
        image_decoder=_sd21_decoder(),
    )


def _sd21_decoder() -> ImageDecoderConfig:
    """Stable Diffusion 2.1 base at 512 x 512, with the published perceiver."""
    return ImageDecoderConfig(
        perceiver=PerceiverConfig(
            num_queries=77,
            hidden_size=1024,
            encoder_hidden_size=5120,
            cross_attention_frequency=1,
            num_hidden_layers=1,
            num_attention_heads=16,
        ),
        unet={
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        vae={
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "sample_size": 768,
            "scaling_factor": 0.18215,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        scheduler=SD_SCHEDULER,
    )

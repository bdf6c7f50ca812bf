"""The memory of an image in closed form, for engines, which cannot wait for `mmi plan` to count it.

At the published sizes it is what the plan counts; for small models up to three times as much.
"""

from __future__ import annotations

from model.config.schema import MMInterleavedConfig


def image_bytes(config: MMInterleavedConfig, item_bytes: int) -> int:
    """Memory of an image while it is generated: conditions, and its share of the activations."""
    decoder = config.image_decoder
    num_blocks = (
        len(decoder.unet["block_out_channels"]) * (decoder.unet["layers_per_block"] + 1) + 1
    )
    width = int((decoder.synchronizer.attn_dim or 0) * decoder.synchronizer.ratio)
    values = num_blocks * sum(side * side for side in config.vision.map_sizes) * width
    channels = max(decoder.unet["block_out_channels"])
    # As `mmi plan` counts them: 42 numbers a channel and place of the latents, in both halves.
    activations = 2 * 42 * channels * decoder.latent_size**2
    return int((values + activations) * item_bytes)

"""The image decoder gives the recorded numbers of the official implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config.presets import preset
from model.image_decoder.image_decoder import ImageDecoder
from tests.model import golden
from tests.model.image_decoder.recorded import previous


@pytest.mark.parametrize("run", ["cfg", "nocfg"])
def test_generate_images(decoder: ImageDecoder, maps: tuple[Tensor, ...], run: str) -> None:
    full, recorded = golden.tensors("full_model"), golden.tensors("generate_images")
    call = golden.document()["sets"]["generate_images"]["runs"][run]
    target = torch.tensor(call["target_image_idxs"])
    images = decoder.generate_images(
        full["out/context_features_gen"][target],
        full["out/context_attention_mask_gen"][target],
        previous(maps, full["out/imgdec_prev_image_gen"][target]),
        full["out/imgdec_mmfs_mask_gen"][target],
        num_inference_steps=call["num_inference_steps"],
        guidance_scale=call["guidance_scale"],
        seed=call["base_seed"],
    )
    assert len(list(golden.recorded_parts(f"{run}/image", images, recorded))) == 2
    golden.assert_recorded(f"{run}/image", images, recorded, 5e-4)


@pytest.mark.parametrize("name", ["tiny", "13b"])
def test_presets_build_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        decoder = ImageDecoder(preset(name))
    config = preset(name).image_decoder
    layers, levels = config.unet["layers_per_block"], len(config.unet["block_out_channels"])
    skips = decoder.decoder.mmfs_module.mmfs_down_blocks
    assert len(skips) == levels * (layers + 1)
    sides = [block.mmfs.base_spatial_shape for block in skips]
    assert sides == [config.latent_size >> (i // (layers + 1)) for i in range(len(skips))]

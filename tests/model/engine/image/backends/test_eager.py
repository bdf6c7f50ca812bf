"""The PyTorch backend: number types, buckets, and images joined to a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.engine.image.backends.eager import TorchBackend, choose_dtype
from model.processor import pixel_values
from tests.model.engine.jobs import conditioning_image, tokens


@pytest.fixture(scope="module")
def backend(checkpoint: Path) -> TorchBackend:
    backend = TorchBackend(checkpoint, "cpu")
    backend.start()
    return backend


def test_joined_images_are_evaluated_like_single_ones(backend: TorchBackend) -> None:
    features = backend.features(conditioning_image(9).image)
    images = [backend.prepare(tokens(1)[None], features), backend.prepare(tokens(2)[None], None)]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([700, 20])
    for guided, halves in ((True, 2), (False, 1)):
        both = backend.join(images, guided)(latents, timesteps)
        assert both.shape == (2 * halves, 4, 8, 8)
        assert both.dtype == torch.float32
        for i, image in enumerate(images):
            alone = backend.join([image], guided)(latents[i : i + 1], timesteps[i : i + 1])
            assert (both[i::2] - alone).abs().max() < 1e-5


def test_features_are_the_maps_of_the_official_preprocessing(backend: TorchBackend) -> None:
    image = conditioning_image(9).image
    pixels = pixel_values(image, backend.config.vision.image_size)
    with torch.no_grad():
        maps = backend.visual_tokenizer(pixels[None]).maps
    expected = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
    assert torch.equal(backend.features(image)[0], expected)


def test_float32_is_precise(backend: TorchBackend) -> None:
    assert backend.precise() is backend
    reduced = TorchBackend(backend.checkpoint, "cpu", "bfloat16")
    assert reduced.precise().capabilities.precision == "float32"
    reduced.stop()


def test_batches_of_every_number_are_taken(checkpoint: Path) -> None:
    backend = TorchBackend(checkpoint, "cpu", "float32", max_batch=6)
    assert backend.capabilities.buckets == (1, 2, 3, 4, 5, 6)


def test_number_types(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("float16", cpu) == "float16"
    for has_tiles, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_tiles: has)
        assert choose_dtype("auto", cpu) == dtype

"""The memory plan against the modules' real sizes."""

from __future__ import annotations

import pytest
import torch

from model.config.presets import preset
from model.memory.plan import GIB, Assumptions, MemoryPlan, plan_memory
from model.mm_interleaved import IMAGE, TEXT, MMInterleaved

RESERVE = 2 * GIB


@pytest.fixture(scope="module")
def published() -> MemoryPlan:
    return plan_memory(preset("13b"), Assumptions())


@pytest.fixture(scope="module")
def tiny() -> MemoryPlan:
    return plan_memory(preset("tiny"), Assumptions(dtype=torch.float32))


def test_weights_are_those_of_the_modules(tiny: MemoryPlan) -> None:
    with torch.device("meta"):
        whole = MMInterleaved(preset("tiny"))
        text = MMInterleaved(preset("tiny"), TEXT)
        image = MMInterleaved(preset("tiny"), IMAGE)

    def size(model: torch.nn.Module) -> int:
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())

    assert sum(part.num_bytes for part in tiny.components) == size(whole)
    assert tiny.text.weights == size(text)
    assert tiny.image.weights == size(image)


def test_published_sizes(published: MemoryPlan) -> None:
    """Vicuna-13B with synchronizers, CLIP ViT-L with adapter, SD 2.1: from their papers' sizes."""
    parameters = {part.name: part.num_parameters for part in published.components}
    assert parameters["mm_decoder"] == 13_215_069_930
    assert parameters["image_decoder.decoder.unet"] == 865_910_724
    assert parameters["image_decoder.decoder.vae"] == 83_653_863
    token = published.text.token
    assert token.keys_values == 40 * 2 * 5120 * 2
    assert token.features == 21 * 1024 * 2
    assert token.features / token.keys_values == pytest.approx(0.0525)
    assert token.hidden_state / token.keys_values == pytest.approx(0.0125)
    assert published.text.tokens_per_request == 1 + 512 + 4 * 65


def test_published_model_on_40_and_80_gib(published: MemoryPlan) -> None:
    assert published.official.float32 > 40 * GIB
    assert published.official.float32 < 80 * GIB
    assert published.text.num_requests(24 * GIB, RESERVE) == -1
    requests = [published.text.num_requests(gpu * GIB, RESERVE) for gpu in (40, 80)]
    assert 0 < requests[0] < requests[1]
    for gpu, number in zip((40, 80), requests, strict=True):
        used = published.text.fixed_bytes(RESERVE) + number * published.text.request_bytes
        assert used <= gpu * GIB < used + published.text.request_bytes


def test_more_images_mean_fewer_requests(tiny: MemoryPlan) -> None:
    many = plan_memory(preset("tiny"), Assumptions(dtype=torch.float32, num_images=8))
    more = many.text.request_bytes - tiny.text.request_bytes
    assert more == 4 * 17 * tiny.text.token.total
    assert many.text.num_requests(4 * GIB, 0) < tiny.text.num_requests(4 * GIB, 0)


def test_half_precision_keeps_the_autoencoder_whole(published: MemoryPlan) -> None:
    sizes = {part.name: part.num_bytes / part.num_parameters for part in published.components}
    assert sizes["image_decoder.decoder.vae"] == 4
    assert sizes["image_decoder.decoder.unet"] == 2

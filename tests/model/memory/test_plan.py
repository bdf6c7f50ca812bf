"""The memory plan against the modules' real sizes."""

from __future__ import annotations

import argparse
import io
import json

import pytest
import torch
from rich.console import Console

from model.config.presets import preset
from model.memory.command import (
    add_arguments,
    answers,
    as_document,
    capacity_table,
    demand_table,
    memory_size,
    run,
    weights_table,
)
from model.memory.live_bytes import LiveBytes
from model.memory.plan import GIB, Assumptions, MemoryPlan, plan
from model.mm_interleaved import IMAGE, TEXT, MMInterleaved

RESERVE = 2 * GIB


@pytest.fixture(scope="module")
def published() -> MemoryPlan:
    return plan(preset("13b"), Assumptions())


@pytest.fixture(scope="module")
def tiny() -> MemoryPlan:
    return plan(preset("tiny"), Assumptions(dtype=torch.float32))


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
    lines = answers(published, [40 * GIB])
    assert "On 40.0 GiB the official program does not load; here the text worker fits" in lines[1]


def test_more_images_mean_fewer_requests(tiny: MemoryPlan) -> None:
    many = plan(preset("tiny"), Assumptions(dtype=torch.float32, num_images=8))
    more = many.text.request_bytes - tiny.text.request_bytes
    assert more == 4 * 17 * tiny.text.token.total
    assert many.text.num_requests(4 * GIB, 0) < tiny.text.num_requests(4 * GIB, 0)


def test_half_precision_keeps_the_autoencoder_whole(published: MemoryPlan) -> None:
    sizes = {part.name: part.num_bytes / part.num_parameters for part in published.components}
    assert sizes["image_decoder.decoder.vae"] == 4
    assert sizes["image_decoder.decoder.unet"] == 2


def test_live_bytes_counts_what_is_held_at_one_time() -> None:
    kib = 256
    with LiveBytes() as live, torch.device("meta"):
        first = torch.empty(kib)
        second = first + 1
        view = second.view(2, -1)
        del second
        third = view * 2
        del first, view, third
        torch.empty(kib)
    assert live.peak == 3 * 1024
    assert live.now == 0


def test_attention_counts_as_a_fused_kernel() -> None:
    with torch.device("meta"):
        query = torch.empty(1, 2, 64, 8)
        with LiveBytes() as live:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert live.peak == query.numel() * 4


def test_peak_equals_real_allocations() -> None:
    """The same computation on the CPU and on the meta device holds the same."""
    layers = torch.nn.Sequential(torch.nn.Linear(32, 256), torch.nn.GELU(), torch.nn.Linear(256, 8))
    peaks = []
    for device in ("cpu", "meta"):
        moved = layers.to(device)
        with torch.no_grad(), LiveBytes() as live:
            moved(torch.empty(64, 32, device=device))
        peaks.append(live.peak)
    assert peaks[0] == peaks[1] >= 2 * 64 * 256 * 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 * GIB), ("40GB", 40 * 10**9), ("1.5g", 3 * GIB // 2), ("512 MiB", 2**29)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert memory_size(text) == size


def test_bad_sizes_are_refused() -> None:
    for text in ("", "GiB", "-1G", "12 apples"):
        with pytest.raises(argparse.ArgumentTypeError):
            memory_size(text)


def test_command_prints_json(tiny: MemoryPlan, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--preset", "tiny", "--gpu", "4GiB", "--json", "--dtype", "float32"]
    assert run(parser.parse_args(words)) == 0
    assert json.loads(capsys.readouterr().out) == as_document(tiny, [4 * GIB])


def test_tables_are_printed(tiny: MemoryPlan) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    for table in (weights_table(tiny), demand_table(tiny), capacity_table(tiny, [GIB, 10**6])):
        console.print(table)
    text = console.export_text()
    assert "image_decoder" not in text
    for words in ("mmfs_module", "a request of 512 tokens and 4 images", "does not fit"):
        assert words in text

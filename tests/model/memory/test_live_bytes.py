"""Peaks on the meta device are those of real allocations."""

import torch

from model.memory.live_bytes import LiveBytes


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

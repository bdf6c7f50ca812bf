from __future__ import annotations

from pathlib import Path

import pytest

from model.bench.text.result import (
    ServedBatch,
    StepTime,
    TextMeasurement,
    plot,
    print_results,
    print_steps,
    same_tokens,
)

# Two requests: the second gets its first token at 3 s, from when on the batch is full.
SERVED = ServedBatch(1.0, [[2.0, 3.0, 4.0], [3.0, 4.0, 5.0]], [[1, 2, 3], [4, 5, 6]], 0.6, 100, 0.5)


def test_decoding_counts_from_the_last_first_token() -> None:
    result = TextMeasurement.of("ours", SERVED)
    assert (result.batch, result.tokens_per_s) == (2, 6 / 4)
    assert result.decode_tokens_per_s == 3 / 2
    assert result.decode_cpu_ms == pytest.approx(200)
    assert (result.ttft_p50_ms, result.tpot_p50_ms) == (1500, 1000)
    assert (result.peak_memory_mib, result.second_turn_ttft_ms) == (100, 500)


def test_tokens_are_the_same_up_to_the_first_difference() -> None:
    assert same_tokens([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 5, 6]]) == 1
    assert same_tokens([[1, 2, 3], [4, 5, 6]], [[1, 9, 3], [4, 5, 9]]) == 0.5


def test_tables_relate_every_variant_to_the_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    slow = ServedBatch(1.0, [[2.0, 4.0, 6.0], [4.0, 6.0, 8.0]], SERVED.token_ids, 1.2, 100)
    print_results([TextMeasurement.of("official", slow), TextMeasurement.of("ours", SERVED)])
    assert "2.00 (2.00)" in capsys.readouterr().out
    print_steps([StepTime("stock", 1, 10, 9, 12), StepTime("ours", 1, 20, 19, 22)])
    assert "0.50" in capsys.readouterr().out


def test_the_plot_is_a_file(tmp_path: Path) -> None:
    plot([TextMeasurement.of("ours", SERVED)], tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()

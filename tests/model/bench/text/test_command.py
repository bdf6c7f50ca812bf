from __future__ import annotations

from model.bench.text.command import _best, _number
from model.bench.text.result import ServedBatch


def served(ids: list[int], duration_s: float) -> ServedBatch:
    times = [1 + duration_s * number for number in range(len(ids))]
    return ServedBatch(0, [times], [ids], 1, 1)


def test_the_best_run_counts_and_all_runs_are_compared() -> None:
    runs = {
        ("official", 1): [served([1, 2], 1), served([1, 2], 1)],
        ("ours", 1): [served([1, 2], 0.5), served([1, 3], 0.25)],
        ("stock", 1): [served([7, 7], 0.5)],
    }
    ours = _best(runs, "ours", 1)
    assert (ours.decode_tokens_per_s, ours.same_tokens) == (4, 0.75)
    assert _best(runs, "stock", 1).same_tokens is None


def test_no_two_batches_share_a_request() -> None:
    ranges = [set(range(_number(r, b), _number(r, b) + b)) for r in range(3) for b in (1, 8, 32)]
    assert len(set().union(*ranges)) == sum(map(len, ranges))

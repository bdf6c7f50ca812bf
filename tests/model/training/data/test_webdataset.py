"""Shards give pairs and documents."""

from __future__ import annotations

from itertools import islice

from model.training.data.webdataset import ShardReader


def test_shards_give_pairs_and_documents(shards: str) -> None:
    examples = list(ShardReader(shards, seed=1).epoch(0))
    assert sorted(example.task for example in examples) == ["interleaved"] + ["paired"] * 4
    document = next(example for example in examples if example.task == "interleaved")
    assert [isinstance(part, str) for part in document.answer] == [True, False, True]
    assert document.images[0].render(16).size == (16, 16)


def test_shards_are_shuffled_by_the_seed(shards: str) -> None:
    def texts(seed: int) -> list[object]:
        return [example.answer[0] for example in islice(ShardReader(shards, seed), 5)]

    assert texts(1) == texts(1)
    assert any(texts(1) != texts(seed) for seed in range(2, 6))

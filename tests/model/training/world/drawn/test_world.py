"""Stocks are functions of their name."""

from __future__ import annotations

import random

from model.training.data.mixture import InOrder, Mixture
from model.training.world.drawn.tasks import TASKS, scenes_of
from model.training.world.drawn.world import DrawnWorld, Stock


def test_stocks_are_functions_of_their_name() -> None:
    stock = Stock.sample("seen", "drawn", 6, 2)
    assert stock == Stock.sample("seen", "drawn", 6, 2)
    assert not set(stock.scenes) & set(Stock.sample("unseen", "drawn", 6, 2).scenes)
    for task in TASKS:
        example = stock.example(task, random.Random(1))
        assert example == stock.example(task, random.Random(1))
        assert example.task == task
        assert "story" in task or set(scenes_of(example)) <= set(stock.scenes)
    source = Mixture({"story": 1.0, "caption": 1.0}, DrawnWorld(), stock=stock)
    assert source.draw(3, 8) == source.draw(3, 8)
    assert InOrder(stock.stories).draw(0, 3) == list(stock.stories)
    assert InOrder(stock.stories).draw(1, 3) == []

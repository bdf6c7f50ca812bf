"""Mixing sources of examples by weights, in an order that a resumed run repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Protocol

from model.training.shards import ShardReader
from model.training.stock import Stock
from model.training.world.examples import TASKS, Example, in_words

SHARDS = "shards:"
WORDS = "words:"


class Source(Protocol):
    """Where examples come from."""

    def draw(self, step: int, number: int) -> list[Example]:
        """The examples of a step, a function of its number alone."""
        ...


class Mixture:
    """Examples of world tasks (by name) and of shards (`shards:PATTERN`).

    World examples are functions of seed and step; with a stock their pictures come from it, else
    every picture is new. As `words:NAME` they have words for the pictures of the prompt. Shards are
    read in order: a mixture that is asked for a later step first skips what the earlier steps read.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        object_set: str,
        seed: int = 0,
        stock: Stock | None = None,
    ) -> None:
        unknown = [
            name
            for name in weights
            if name.removeprefix(WORDS) not in TASKS and not name.startswith(SHARDS)
        ]
        if unknown or not weights:
            known = f"{', '.join(TASKS)}, {WORDS}NAME, {SHARDS}PATTERN"
            raise ValueError(f"unknown sources {unknown}; known: {known}")
        self.weights, self.object_set, self.seed, self.stock = weights, object_set, seed, stock
        self._readers: dict[str, Iterator[Example]] = {
            name: iter(ShardReader(name.removeprefix(SHARDS), seed))
            for name in weights
            if name.startswith(SHARDS)
        }
        self._next_step = 0

    def draw(self, step: int, number: int) -> list[Example]:
        """The examples of a step. The number must be the same for all steps."""
        if self._readers and step < self._next_step:
            raise ValueError("shards are read forwards: steps must not go back")
        for skipped in range(self._next_step if self._readers else step, step):
            for name in self._names(skipped, number):
                if name in self._readers:
                    next(self._readers[name])
        self._next_step = step + 1
        rng = random.Random(f"{self.seed}/{step}/examples")
        return [self._example(name, rng) for name in self._names(step, number)]

    def _example(self, name: str, rng: random.Random) -> Example:
        if name in self._readers:
            return next(self._readers[name])
        if name.startswith(WORDS):
            return in_words(self._example(name.removeprefix(WORDS), rng))
        if self.stock is not None:
            return self.stock.example(name, rng)
        return TASKS[name](rng, self.object_set)

    def _names(self, step: int, number: int) -> list[str]:
        """The sources of a step's examples."""
        rng = random.Random(f"{self.seed}/{step}/sources")
        return rng.choices(list(self.weights), list(self.weights.values()), k=number)

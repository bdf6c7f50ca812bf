"""Mixing sources of examples by weights, in an order that a resumed run repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from model.training.data.webdataset import ShardReader
from model.training.world.example import Example
from model.training.world.world import ExampleMaker, World

SHARDS = "shards:"
WORDS = "words:"


class Source(Protocol):
    """Where examples come from."""

    def draw(self, step: int, number: int) -> list[Example]:
        """The examples of a step, a function of its number alone."""
        ...


class InOrder:
    """Examples in their order; none after the last."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def draw(self, step: int, number: int) -> list[Example]:
        """The examples of a step."""
        return list(self.examples[step * number : (step + 1) * number])


class Mixture:
    """Examples of world tasks (by name) and of shards (`shards:PATTERN`).

    World examples are functions of seed and step; with a stock their images come from it, else
    every image is new. `words:NAME` has a description in place of each image of the prompt. Shards
    are read in order: a mixture that is asked for a later step first skips what the earlier steps
    read.

    Raises:
        ValueError: a name is neither a task nor a pattern of shards.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        world: World,
        seed: int = 0,
        stock: ExampleMaker | None = None,
    ) -> None:
        unknown = [
            name
            for name in weights
            if name.removeprefix(WORDS) not in world.tasks and not name.startswith(SHARDS)
        ]
        if unknown or not weights:
            known = f"{', '.join(world.tasks)}, {WORDS}NAME, {SHARDS}PATTERN"
            raise ValueError(f"unknown sources {unknown}; known: {known}")
        self.weights, self.world, self.seed = weights, world, seed
        self.maker: ExampleMaker = stock or world
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
            return self.world.in_words(self._example(name.removeprefix(WORDS), rng))
        return self.maker.example(name, rng)

    def _names(self, step: int, number: int) -> list[str]:
        """The sources of a step's examples."""
        rng = random.Random(f"{self.seed}/{step}/sources")
        return rng.choices(list(self.weights), list(self.weights.values()), k=number)

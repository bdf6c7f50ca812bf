"""What objectives expect of the facts of any world."""

from __future__ import annotations

import pytest

from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.facts import Facts
from model.training.world.storybook.facts import SEEN, TOLD

ALL = pytest.mark.parametrize(
    "facts", [DRAWN_FACTS, SEEN, TOLD], ids=["drawn", "storybook seen", "storybook told"]
)


@ALL
def test_every_fact_has_a_place_and_every_place_a_fact(facts: Facts) -> None:
    assert set(facts.places) == set(facts.values)
    assert set(facts.places.values()) == set(range(facts.num_places))


@ALL
def test_values_of_a_fact_differ_and_are_counted_in_order(facts: Facts) -> None:
    assert facts.num_values == [len(set(values)) for values in facts.values.values()]


@ALL
def test_the_background_has_the_last_place(facts: Facts) -> None:
    last = {
        name.rpartition(" ")[2] for name, at in facts.places.items() if at + 1 == facts.num_places
    }
    assert last == {"place", "time", "weather"}

"""Sets of objects behind one interface."""

from __future__ import annotations

import pytest

from model.training.world.drawn.painting.objects import ALL_KINDS, OBJECT_SETS, object_sets


def test_sets_are_chosen_by_name() -> None:
    assert [each.name for each in object_sets("drawn+emoji")] == ["drawn", "emoji"]
    with pytest.raises(ValueError, match="unknown sets of objects"):
        object_sets("drawn+clay")
    assert len(set(ALL_KINDS)) == sum(len(each.kinds) for each in OBJECT_SETS.values())


@pytest.mark.parametrize("name", OBJECT_SETS)
def test_every_kind_has_a_sprite(name: str) -> None:
    each = OBJECT_SETS[name]
    if not each.available():
        pytest.skip("its font is not installed")
    for kind in each.kinds:
        sprite = each.sprite(kind, each.colours[0], 22)
        assert (sprite.mode, sprite.size) == ("RGBA", (22, 22))
        assert sprite.getbbox() is not None

"""Facts of storybook images say what is seen, and what was told."""

from __future__ import annotations

from dataclasses import replace

from model.training.world.storybook.facts import NUM_COLUMNS, NUM_ITEMS, SEEN, TOLD, parts_of
from model.training.world.storybook.language.seeing.grounding import hundredths
from model.training.world.storybook.painting.hero import UNTOLD, Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing
from model.training.world.storybook.telling.image import StorybookImage

_TRAITS = ("colour", "pattern", "token")
_HERO = Stand(Hero("Pip", "frog", "blue", "striped", "top hat"), 0.55, 0.9)
_SCENE = StorybookScene(
    Setting("old town", 0, "evening", "rain"),
    (StorybookThing("nesting doll", "normal", 0.1, 0.9), StorybookThing("cat", "big", 0.9, 0.9)),
    _HERO,
)
_CROWNED = replace(_SCENE, stand=replace(_HERO, hero=Hero("Pip", "frog", UNTOLD, "plain", "crown")))
_GROUP = StorybookScene(
    Setting("meadow", 0, "day"),
    tuple(StorybookThing("balloon", "normal", x, 0.5) for x in (0.1, 0.3, 0.5)),
)


def test_columns_hold_what_stands_in_them() -> None:
    facts = SEEN.of(_SCENE)
    assert [facts[f"{column} what"] for column in range(NUM_COLUMNS)] == [
        "nesting doll", "nothing", "nothing", "frog", "nothing", "cat",
    ]  # fmt: skip
    assert (facts["3 colour"], facts["3 token"]) == ("blue", "with top hat")
    assert facts[f"{NUM_COLUMNS} place"] == "old town"
    assert [facts["0 side"], facts["3 side"], facts["5 side"]] == ["left", "middle", "right"]


def test_words_are_said_as_people_say_them() -> None:
    *columns, setting = SEEN.words_of(_SCENE)
    assert columns[0] == ["left", "one", "nesting", "doll"]
    assert columns[3] == ["middle", "striped", "blue", "frog", "with top hat"]
    assert columns[5] == ["right", "big", "cat"]
    assert setting == ["old", "town", "evening", "rain"]


def test_columns_have_the_edges_of_things() -> None:
    assert SEEN.figures_of is not None
    first, *between, last, setting = SEEN.figures_of(_SCENE)
    assert between == [[]] * 4 and setting == []  # Nobody asks for the box of a hero.
    doll, cat = _SCENE.things
    boxes = _SCENE.boxes()
    assert (first, last) == (hundredths(boxes[doll]), hundredths(boxes[cat]))


def test_items_stand_in_the_order_of_a_request_and_count() -> None:
    facts = TOLD.of(_GROUP)
    assert [facts[f"{item} what"] for item in range(NUM_ITEMS)] == ["balloon", *["nothing"] * 3]
    assert facts["0 number"] == "three"
    assert [part["what"] for part in parts_of(_GROUP)] == ["balloon"] * 3


def test_items_stand_in_the_order_in_which_sides_are_told() -> None:
    facts = TOLD.of(StorybookImage(_SCENE, tells_sides=True, order=(2, 0, 1)))
    told = [(facts[f"{item} what"], facts[f"{item} side"]) for item in range(3)]
    assert told == [("cat", "right"), ("nesting doll", "left"), ("frog", "middle")]


def test_what_the_words_leave_open_is_no_target() -> None:
    told = TOLD.of(StorybookImage(_SCENE))
    assert "0 side" not in told and told["1 colour"] == "blue"
    in_a_story = TOLD.of(StorybookImage(_SCENE, tells_look=False))
    assert in_a_story["1 what"] == "frog" and in_a_story["1 role"] == "hero"
    assert not {"1 colour", "1 pattern", "1 token"} & set(in_a_story)
    anywhere = TOLD.of(StorybookImage(_SCENE, tells_place=False, tells_sides=True))
    assert f"{NUM_ITEMS} place" not in anywhere and anywhere["0 side"] == "left"


def test_of_a_look_only_what_is_told_is_a_target() -> None:
    assert _CROWNED.stand is not None
    assert _told_look(_CROWNED) == {"pattern": "plain", "token": "with crown"}
    blue = replace(_CROWNED.stand.hero, colour="blue", token=UNTOLD)
    painted = replace(_CROWNED, stand=replace(_CROWNED.stand, hero=blue))
    assert _told_look(painted) == {"colour": "blue", "pattern": "plain"}


def _told_look(scene: StorybookScene) -> dict[str, str]:
    facts = TOLD.of(StorybookImage(scene))
    return {trait: facts[f"1 {trait}"] for trait in _TRAITS if f"1 {trait}" in facts}


def test_every_value_is_known() -> None:
    for facts in (SEEN, TOLD):
        for scene in (_SCENE, _CROWNED, _GROUP, replace(_SCENE, stand=None)):
            for name, value in facts.of(scene).items():
                assert value in facts.values[name], (name, value)
                assert facts.places[name] < facts.num_places

"""Facts of storybook images: what visual tokens hold, and what image tokens hold.

Visual tokens stand for columns of an image, since reading begins with where something is. Image
tokens stand for what was asked for, in the order of the words: where it will stand is up to the
decoder, unless they say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from model.training.world.drawable import Drawable
from model.training.world.facts import NOTHING, WHAT, Facts
from model.training.world.storybook.language.seeing.grounding import hundredths
from model.training.world.storybook.painting.hero import COLOURS, PATTERNS, TOKENS, UNTOLD, Hero
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES, TIMES, WEATHERS, Setting
from model.training.world.storybook.painting.scene import (
    SIZES,
    Stand,
    StorybookScene,
    StorybookThing,
)
from model.training.world.storybook.telling.group import (
    SIDES,
    Group,
    groups,
    side_of,
)
from model.training.world.storybook.telling.image import StorybookImage, image_of
from model.training.world.storybook.telling.sketch import NUM_ITEMS, StorybookSketcher
from model.training.world.words import NUMBERS

NUM_COLUMNS = 6
KINDS = tuple(NOUNS)  # Every species among them.
_HERO = "hero"

_LOOK: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    # Not the words of things that lie around.
    "token": tuple(f"with {token}" for token in TOKENS),
}
_ITEM: dict[str, tuple[str, ...]] = {
    WHAT: (NOTHING, *KINDS),
    "role": (_HERO,),
    "number": tuple(NUMBERS.values())[:4],
    "size": tuple(SIZES),
    "side": SIDES,
    **_LOOK,
}
# What is told of nothing, of things, of a story's hero, and of animals with a part of a look.
_TOGETHER = (
    (),
    ("number", "size"),
    ("role",),
    ("role", "pattern"),
    ("role", "pattern", "colour"),
    ("role", "pattern", "token"),
    ("role", "pattern", "colour", "token"),
)
_SETTING: dict[str, tuple[str, ...]] = {
    "place": tuple(PLACES),
    "time": TIMES,
    "weather": WEATHERS,
}
# The spoken order of the words of a column.
_SPOKEN = ("side", "number", "size", "pattern", "colour", WHAT, "token")


def column_of(x: float) -> int:
    """The column of a horizontal position in [0, 1]."""
    return min(max(int(x * NUM_COLUMNS), 0), NUM_COLUMNS - 1)


def _group_facts(group: Group) -> dict[str, str]:
    return {
        WHAT: group.noun,
        "number": NUMBERS[min(group.number, 4)],
        "size": group.size,
        "side": group.side,
    }


def _hero_facts(stand: Stand) -> dict[str, str]:
    return {
        WHAT: stand.hero.species,
        "role": _HERO,
        "side": side_of(stand.x),
        **_look(stand.hero),
    }


def _look(hero: Hero) -> dict[str, str]:
    """What is told of a hero's look; what words leave out is not there."""
    token = f"with {hero.token}" if hero.token else UNTOLD
    look = {"colour": hero.colour, "pattern": hero.pattern, "token": token}
    return {name: value for name, value in look.items() if value != UNTOLD}


def setting_facts(setting: Setting) -> dict[str, str]:
    return {"place": setting.place, "time": setting.time, "weather": setting.weather}


def _by_thing(scene: StorybookScene) -> dict[StorybookThing, Group]:
    return {thing: group for group in groups(scene) for thing in group.things}


def _entry_facts(
    entry: StorybookThing | Stand, by_thing: Mapping[StorybookThing, Group]
) -> dict[str, str]:
    if isinstance(entry, StorybookThing):
        return _group_facts(by_thing[entry])
    return _hero_facts(entry)


def _columns(scene: StorybookScene) -> list[StorybookThing | Stand | None]:
    """What has its middle in each column; of two neighbours the bigger one."""
    found: list[StorybookThing | Stand | None] = [None] * NUM_COLUMNS
    for entry in scene.entries:
        column = column_of(entry.x)
        known = found[column]
        if known is None or entry.height > known.height:
            found[column] = entry
    return found


def _column_facts(scene: StorybookScene) -> list[dict[str, str]]:
    by_thing = _by_thing(scene)
    return [
        {WHAT: NOTHING} if entry is None else _entry_facts(entry, by_thing)
        for entry in _columns(scene)
    ]


def _items(image: StorybookImage) -> list[dict[str, str]]:
    """The facts of groups and hero as words tell them, then of what is absent."""
    told = [
        _hero_facts(item) if isinstance(item, Stand) else _group_facts(item)
        for item in image.items[:NUM_ITEMS]
    ]
    return told + [{WHAT: NOTHING} for _ in range(NUM_ITEMS - len(told))]


def _seen_by_place(content: Drawable) -> list[dict[str, str]]:
    scene = image_of(content).scene
    return [*_column_facts(scene), setting_facts(scene.setting)]


def _edges(content: Drawable) -> list[list[int]]:
    """The edges of the thing in each column; nobody asks for a hero's, nor for a place's."""
    scene = image_of(content).scene
    boxes = scene.boxes()
    things = [isinstance(entry, StorybookThing) and entry for entry in _columns(scene)]
    return [*(hundredths(boxes[thing]) if thing else [] for thing in things), []]


def _told_by_place(content: Drawable) -> list[dict[str, str]]:
    image = image_of(content)
    told_items = _items(image)
    setting = setting_facts(image.scene.setting)
    untold = [] if image.tells_sides else ["side"]
    untold += [] if image.tells_look else list(_LOOK)
    for item in told_items:
        for name in untold:
            item.pop(name, None)
    if not image.tells_place:
        del setting["place"]
    return [*told_items, setting]


def _named(by_place: Sequence[dict[str, str]]) -> dict[str, str]:
    """The facts of all places under names of their own."""
    return {
        _name(place, name): v for place, each in enumerate(by_place) for name, v in each.items()
    }


def _name(place: int, name: str) -> str:
    return f"{place} {name}"


def _spoken(by_place: Sequence[dict[str, str]]) -> list[list[str]]:
    """The facts of each place as a reader would say them; what is normal goes unsaid."""
    *places, setting = by_place
    where = [*setting.get("place", "").split(), setting["time"], setting["weather"]]
    return [*map(_spoken_place, places), where]


def _spoken_place(facts: dict[str, str]) -> list[str]:
    if facts[WHAT] == NOTHING:
        return [NOTHING]
    said = {**facts, "size": "" if facts.get("size") == "normal" else facts.get("size", "")}
    if said["size"]:
        said["number"] = ""  # Only single things are small or big.
    words = [said[name] for name in _SPOKEN if said.get(name)]
    return [each for word in words for each in (word.split() if word == facts[WHAT] else [word])]


PART_VALUES = {name: values for name, values in _ITEM.items() if name != "side"}
WHOLE_VALUES = _SETTING


def parts_of(scene: StorybookScene) -> list[dict[str, str]]:
    """The facts of every entry of a scene, without its side."""
    by_thing = _by_thing(scene)
    parts = [_entry_facts(entry, by_thing) for entry in scene.entries]
    for facts in parts:
        del facts["side"]
    return parts


def _facts(num_items: int, by_place: Callable[[Drawable], list[dict[str, str]]]) -> Facts:
    """The schema of that many items and the setting."""
    values = {_name(place, n): v for place in range(num_items) for n, v in _ITEM.items()}
    values |= {_name(num_items, name): v for name, v in _SETTING.items()}
    return Facts(
        values=values,
        places={name: int(name.partition(" ")[0]) for name in values},
        num_places=num_items + 1,
        of=lambda content: _named(by_place(content)),
        words_of=lambda content: _spoken(by_place(content)),
    )


SEEN = replace(_facts(NUM_COLUMNS, _seen_by_place), figures_of=_edges)
TOLD = replace(
    _facts(NUM_ITEMS, _told_by_place),
    sketcher=StorybookSketcher(),
    always=(WHAT, "time", "weather"),
    alternatives=_TOGETHER,
)

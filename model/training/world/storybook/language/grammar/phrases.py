"""Phrases about scenes: things, where they are, the place, the time and the weather."""

from __future__ import annotations

import random
from collections.abc import Sequence

from model.training.world.storybook.painting.hero import TOKENS, Hero
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES, Setting
from model.training.world.storybook.telling.group import Group
from model.training.world.words import NUMBERS

UNTOLD = ""  # The place of a setting that a text does not name.
_DAY_UNSAID = 0.5

# Other ways to say where; the first is the one that captions use.
_WHERE: dict[str, tuple[str, ...]] = {
    UNTOLD: ("",),
    "living room": ("in the living room", "in a bright living room", "at home", "in the lounge"),
    "bridge": ("on the glass bridge", "on a glass walkway", "in a glass corridor"),
    "city": (
        "in the city",
        "in a big city",
        "downtown",
        "on a city street",
        "among tall buildings",
    ),
    "desert": ("in the desert", "in a rocky desert", "on the rocks", "among desert hills"),
    "mall": ("in the shopping mall", "at the mall", "in a shopping centre", "in a mall"),
    "forest": ("in the forest", "in the woods", "among the trees", "in a sunny wood"),
    "ballroom": ("in the ballroom", "in a grand hall", "on the dance floor", "in a ballroom"),
    "laboratory": ("in the laboratory", "in an old laboratory", "in the lab", "in a lab"),
    "lobby": ("in the lobby", "in a hotel lobby", "in the entrance hall", "in a lobby"),
    "savanna": ("in the savanna", "on the dry grassland", "in the savannah", "in the bush"),
    "meadow": ("in the meadow", "on a green meadow", "on the grass", "in a park"),
    "field": ("in the field", "in a misty field", "on a country field", "in the countryside"),
    "old town": ("in the old town", "on an old square", "in Venice", "on the town square"),
    "harbour": ("at the harbour", "by the sea", "at the waterfront", "at the seaside"),
    "warehouse": ("in the warehouse", "in an empty warehouse", "in a big storehouse"),
    "workshop": ("in the workshop", "in a busy workshop", "in a factory hall", "in a workshop"),
}
_GOING: dict[str, str] = {
    name: place.phrase.replace("in the", "to the", 1)
    .replace("on the", "to the", 1)
    .replace("at the", "to the", 1)
    for name, place in PLACES.items()
}
_WHEN = {
    "morning": ("in the morning", "early in the morning", "at sunrise", "in the morning light"),
    "day": ("during the day", "at noon", "by day", "in daylight"),
    "evening": ("in the evening", "at sunset", "at dusk", "in the evening light"),
    "night": ("at night", "in the dark", "late at night", "by night"),
}
_WEATHER = {
    "rain": ("in the rain", "while it is raining", "on a rainy day", "in rainy weather"),
    "snow": ("in the snow", "while it is snowing", "on a snowy day", "in snowy weather"),
    "fog": ("in the fog", "in thick fog", "on a foggy day", "in misty weather"),
}
_ADJECTIVES = {
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
}


def at_side(side: str) -> str:
    """A side as an adverbial."""
    return "in the middle" if side == "middle" else f"on the {side}"


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith(("uni", "ufo", "one"))
    return f"{'an' if vowel else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of a noun of the world."""
    return NOUNS[noun].plural or f"{noun}s"


def word(rng: random.Random, noun: str, synonyms: float, further: Sequence[str] = ()) -> str:
    """The noun, or with probability `synonyms` another word for it, one of the `further` too."""
    others = (*NOUNS[noun].synonyms, *further)
    return rng.choice(others) if others and rng.random() < synonyms else noun


def noun_phrase(
    group: Group,
    rng: random.Random | None = None,
    synonyms: float = 0.0,
    further: Sequence[str] = (),
) -> str:
    """A group with its article or number: "a big tree", "three cats", "some cheese".

    With `rng` adjectives vary, and a single thing has a synonym with probability `synonyms`, which
    may be one of the `further` words.
    """
    noun = NOUNS[group.noun]
    adjective = ""
    if group.size != "normal":
        choices = _ADJECTIVES[group.size]
        adjective = (rng.choice(choices) if rng else choices[0]) + " "
    if group.number > 1:
        return f"{NUMBERS[group.number]} {adjective}{plural(group.noun)}"
    name = word(rng, group.noun, synonyms, further) if rng else group.noun
    if not noun.counted:
        return f"some {adjective}{name}"
    return article(adjective + name)


def hero_phrase(hero: Hero) -> str:
    """A hero's whole look: "a spotted blue cat with a crown"."""
    pattern = "" if hero.pattern == "plain" else f"{hero.pattern} "
    return f"{article(f'{pattern}{hero.colour} {hero.species}')} {TOKENS[hero.token].phrase}"


def where(setting: Setting, rng: random.Random | None = None) -> str:
    """The place as an adverbial; the plain one without `rng`."""
    choices = _WHERE[setting.place]
    return rng.choice(choices) if rng else choices[0]


def going(place: str) -> str:
    """The place as a goal: "to the forest"."""
    return _GOING[place]


def when(setting: Setting, rng: random.Random | None = None) -> str:
    """Time and weather as adverbials: "at night in the snow".

    With `rng` the day, which is meant where nothing is said, is said every other time.
    """
    if rng and setting.time == "day" and rng.random() < _DAY_UNSAID:
        return weather(setting, rng)
    times = _WHEN[setting.time]
    time = rng.choice(times) if rng else times[0]
    if setting.weather == "clear":
        return time
    weathers = _WEATHER[setting.weather]
    return f"{time} {rng.choice(weathers) if rng else weathers[0]}"


def weather(setting: Setting, rng: random.Random) -> str:
    """The weather alone as an adverbial, empty if there is none."""
    return "" if setting.weather == "clear" else rng.choice(_WEATHER[setting.weather])

"""Language about scenes: descriptions, and phrases of stories, questions and answers."""

from __future__ import annotations

from model.training.world.drawn.painting.background import Background
from model.training.world.drawn.painting.scene import Scene, Thing
from model.training.world.words import joined

_AT = {
    "meadow": "in the meadow",
    "beach": "at the beach",
    "mountain": "in the mountains",
    "city": "in the city",
}
_TO = {
    "meadow": "to the meadow",
    "beach": "to the beach",
    "mountain": "to the mountains",
    "city": "to the city",
}
_SKY = {
    ("sunny", "day"): "the sun was shining",
    ("sunny", "evening"): "the sun went down",
    ("sunny", "night"): "the moon was shining",
    ("cloudy", "day"): "there were white clouds",
    ("cloudy", "evening"): "there were soft clouds",
    ("cloudy", "night"): "there were dark clouds",
    ("rainy", "day"): "it was raining",
    ("rainy", "evening"): "the rain came down",
    ("rainy", "night"): "it rained and rained",
}


def at_place(place: str) -> str:
    """The place as an adverbial: "at the beach"."""
    return _AT[place]


def to_place(place: str) -> str:
    """The place as a goal: "to the beach"."""
    return _TO[place]


def sky(background: Background) -> str:
    """A clause about the sky."""
    return _SKY[background.weather, background.time]


def when(background: Background) -> str:
    """Weather and time: "on a rainy evening"."""
    return f"on a {background.weather} {background.time}"


def noun_phrase(thing: Thing, with_size: bool = True) -> str:
    """A thing with its adjectives and article: "a big red boat"."""
    words = [thing.size] if with_size else []
    words += [thing.colour] if thing.colour else []
    phrase = " ".join([*words, thing.kind])
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def side(slot: str) -> str:
    """Where a slot is: "on the left", "in the middle"."""
    return "in the middle" if slot == "middle" else f"on the {slot}"


def describe(scene: Scene) -> str:
    """Everything in a scene, without a full stop or a capital."""
    phrases = [f"{noun_phrase(thing)} {side(thing.slot)}" for thing in scene.things]
    if scene.hero is not None:
        look = f"{scene.hero.texture} {scene.hero.colour} hero with {scene.hero.ears} ears"
        phrases.append(f"a {look} {side(scene.hero_slot)}")
    return f"{joined(phrases)}, {at_place(scene.background.place)}, {when(scene.background)}"


def sentence(clause: str) -> str:
    """A clause with a capital and a full stop."""
    return clause[0].upper() + clause[1:] + "."

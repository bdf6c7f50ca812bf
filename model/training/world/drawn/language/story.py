"""Illustrated stories: the hero's look comes from the user's image, the rest from the words."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from model.training.world.drawn.language import phrases as language
from model.training.world.drawn.painting.background import PLACES, TIMES, WEATHERS, Background
from model.training.world.drawn.painting.character import Character
from model.training.world.drawn.painting.scene import Scene, Thing
from model.training.world.words import NUMBERS

_TIMES_OF_DAY = {2: ("day", "night"), 3: TIMES, 4: ("day", "day", "evening", "night")}
_KEEP_WEATHER = 0.5


@dataclass(frozen=True)
class Page:
    """Some text and the image after it."""

    text: str
    scene: Scene


@dataclass(frozen=True)
class StoryPlan:
    """A hero's image and a wish, then the pages that answer them."""

    introduction: str
    portrait: Scene
    wish: str
    pages: tuple[Page, ...]
    ending: str


def draw_story(rng: random.Random, object_set: str = "drawn") -> StoryPlan:
    """A random story of two, three or four pages."""
    hero = Character.sample(rng)
    slot = rng.choice(("left", "right"))
    portrait = Scene(Background.sample(rng), hero=hero, hero_slot=slot)
    num_pages = rng.choice((2, 3, 3, 3, 4))
    scenes = _scenes(rng, portrait, num_pages, object_set)
    pages = tuple(
        Page(_page_text(rng, scene, number, num_pages), scene)
        for number, scene in enumerate(scenes)
    )
    first = scenes[0]
    assert first.hero is not None
    return StoryPlan(
        introduction=rng.choice((f"This is {hero.name}.", f"Look, this is {hero.name}!")),
        portrait=portrait,
        wish=_wish(rng, first, num_pages),
        pages=pages,
        ending=rng.choice((f"Good night, {hero.name}!", "The end.", f"Sleep well, {hero.name}!")),
    )


def _scenes(rng: random.Random, portrait: Scene, number: int, object_set: str) -> list[Scene]:
    """The images: one place, the day passing, another thing on every page."""
    place, weather = rng.choice(PLACES), rng.choice(WEATHERS)
    other = "right" if portrait.hero_slot == "left" else "left"
    kinds: set[str] = set()
    scenes = []
    for time in _TIMES_OF_DAY[number]:
        thing = Thing.sample(rng, object_set, other)
        while thing.kind in kinds:
            thing = Thing.sample(rng, object_set, other)
        kinds.add(thing.kind)
        scenes.append(
            replace(portrait, background=Background(place, weather, time), things=(thing,))
        )
        if rng.random() > _KEEP_WEATHER:
            weather = rng.choice(WEATHERS)
    return scenes


def _wish(rng: random.Random, first: Scene, num_pages: int) -> str:
    """The user's wish: thing and place of the first page, and the number of images."""
    assert first.hero is not None
    thing = language.noun_phrase(first.things[0], with_size=rng.random() < 0.3)
    where = language.at_place(first.background.place)
    many = f" in {NUMBERS[num_pages]} pictures"
    if num_pages == 3 and rng.random() < 0.5:
        many = ""
    name = first.hero.name
    return rng.choice(
        (
            f"Tell a story about {name} and {thing} {where}{many}.",
            f"Tell me a story{many}: {name} finds {thing} {where}.",
            f"Write a story{many} where {name} finds {thing} {where}.",
        )
    )


def _page_text(rng: random.Random, scene: Scene, number: int, num_pages: int) -> str:
    """The sentences before an image; they name what it shows, except the hero's look."""
    assert scene.hero is not None
    name, background = scene.hero.name, scene.background
    thing = language.noun_phrase(scene.things[0])
    if number == 0:
        return rng.choice(
            (
                f"One {background.weather} day, {name} went {language.to_place(background.place)}. "
                f"There {name} found {thing}.",
                f"One day, {name} went {language.to_place(background.place)} and "
                f"{language.sky(background)}. {name} found {thing}.",
            )
        )
    opening = {"day": "Then", "evening": "In the evening", "night": "At night"}[background.time]
    found: tuple[str, ...] = (
        f"{name} saw {thing}.",
        f"{name} came to {thing}.",
        f"{name} played with {thing}.",
    )
    if number == num_pages - 1:
        found = (f"{name} slept next to {thing}.", f"{name} was tired and saw {thing}.")
    return f"{opening}, {language.sky(background)}. {rng.choice(found)}"

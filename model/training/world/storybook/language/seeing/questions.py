"""Questions about images and their answers, in families of forms."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill
from model.training.world.storybook.painting.hero import COLOURS, PATTERNS, TOKENS, Hero
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES, TIMES, WEATHERS
from model.training.world.storybook.painting.scene import Stand, StorybookScene
from model.training.world.storybook.telling.group import Group, groups, items, side_of
from model.training.world.words import NUMBERS

Pair = tuple[str, str]
QuestionFamily = Callable[[random.Random, StorybookScene], Iterator[Pair]]


def kinds(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """What stands on a side where one group stands alone."""
    taken = [group.side for group in groups(scene)]
    if scene.stand:
        taken.append(side_of(scene.stand.x))
    for group in groups(scene):
        if taken.count(group.side) > 1:
            continue
        side = phrases.at_side(group.side)
        form = (
            "[what is {side}|what's {side}|what do you see {side}|what stands {side}|"
            "what can be seen {side}|what [object |thing ]is [there |]{side}|{side}, what is there]"
        )
        yield fill(rng, form, side=side), phrases.noun_phrase(group)


def places_of_things(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Where a thing is in the image."""
    for group in groups(scene):
        name, be = _named(rng, group)
        form = (
            "[where {be} the {name}|where do you see the {name}|"
            "on which side {be} the {name}|where can I find the {name}|"
            "{be} the {name} [on the left, in the middle or on the right|left or right]]"
        )
        yield fill(rng, form, be=be, name=name), phrases.at_side(group.side)


def numbers(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """How many of a thing there are."""
    counts: dict[str, int] = {}
    for group in groups(scene):
        counts[group.noun] = counts.get(group.noun, 0) + group.number
    if scene.hero and scene.hero.species in counts:
        counts[scene.hero.species] += 1
    for noun, number in counts.items():
        if NOUNS[noun].counted:
            form = (
                "[how many {nouns} are there|how many {nouns} do you see|count the {nouns}|"
                "how many {nouns} are in the picture|how many {nouns} can you [see|count]|"
                "what is the number of {nouns}|how many {nouns}]"
            )
            answer = NUMBERS[number]
            yield fill(rng, form, nouns=phrases.plural(noun)), answer


def presence(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Whether something is there."""
    there = {thing.noun for thing in scene.things}
    answers = [(noun, "yes") for noun in sorted(there)]
    absent = rng.choice([noun for noun in NOUNS if noun not in there])
    # A hero is an animal too, and what it wears is seen.
    if not scene.hero or absent not in (scene.hero.species, scene.hero.token):
        answers.insert(0, (absent, "no"))
    form = (
        "[is there {what}|do you see {what}|can you see {what}|is {what} in the picture|"
        "is there {what} [here|in this picture]|does the picture show {what}]"
    )
    for noun, answer in answers:
        what = phrases.article(noun) if NOUNS[noun].counted else f"any {noun}"
        yield fill(rng, form, what=what), answer
        if NOUNS[noun].counted:
            several = "[are there any {nouns}|do you see any {nouns}|can you see any {nouns}]"
            yield fill(rng, several, nouns=phrases.plural(noun)), answer


def neighbours(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """What stands beside a thing, where only two are."""
    shown = items(scene)
    if len(shown) != 2:
        return
    for item, other in (shown, shown[::-1]):
        if isinstance(item, Group):
            name, be = _named(rng, item)
        else:
            name, be = rng.choice((item.hero.species, "hero")), "is"
        form = (
            "[what is [next to|beside|near] the {name}|what else is there besides the {name}|"
            "what [{be} the {name} next to|do you see next to the {name}]]"
        )
        yield fill(rng, form, name=name, be=be), _told(other)


def sizes(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Whether a thing is small or big, of those that are."""
    for group in groups(scene):
        if group.size != "normal" and group.number == 1:
            form = (
                "[how big is the {name}|is the {name} big or small|what size is the {name}|"
                "is the {name} [small or big|large or small]|how large is the {name}]"
            )
            yield fill(rng, form, name=group.noun), group.size


def setting(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """The place, the time of day, the weather."""
    where = (
        "[where is this|what place is this|where was this taken|where are we|"
        "where does this take place|what is the setting|what is in the background|"
        "what kind of place is [this|it]|what does the background show]"
    )
    yield fill(rng, where), phrases.where(scene.setting)
    time = (
        "[what time of day is it|is it day or night|when is this|what is the time of day|"
        "what time is it|is it morning, day, evening or night]"
    )
    yield fill(rng, time), scene.setting.time
    weather = (
        "[what is the weather like|how is the weather|what's the weather[ like|]|"
        "what weather is it|what weather do you see|describe the weather]"
    )
    if scene.setting.weather != "clear":
        yield fill(rng, weather), _WEATHERS[scene.setting.weather]


def checks(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Whether place, time or weather is a given one; it is every other time."""
    setting = scene.setting
    place = rng.choice((setting.place, rng.choice(tuple(PLACES))))
    where = phrases.where(replace(setting, place=place))
    form = "[is this|is it|are we|was this taken|does this happen] {where}"
    yield fill(rng, form, where=where), _yes(place == setting.place)
    time = rng.choice((setting.time, rng.choice(TIMES)))
    yield f"is it {time}", _yes(time == setting.time)
    weather = rng.choice((setting.weather, rng.choice(WEATHERS)))
    if weather != "clear":
        form = f"[{_WEATHERS[weather].replace('it is', 'is it')}|is there [any |]{weather}]"
        yield fill(rng, form), _yes(weather == setting.weather)


def hero(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """The hero's species, colour, pattern and token."""
    if scene.stand is None:
        return
    look = scene.stand.hero
    yield (
        _of_hero(
            rng,
            look,
            "[what [colour|color] is {x}|which [colour|color] [does {x} have|is {x}]|"
            "what is the [colour|color] of {x}|what is {xs} [colour|color]]",
        ),
        look.colour,
    )
    choices = ", ".join(PATTERNS[:-1]) + f" or {PATTERNS[-1]}"
    yield (
        _of_hero(
            rng,
            look,
            "[is {x} {choices}|what pattern does {x} have|what is the pattern of {x}|"
            "what is {xs} pattern|what does {xs} fur look like]",
            choices=choices,
        ),
        look.pattern,
    )
    at = {"flower": "at {xs} ear", "scarf": "around {xs} neck"}.get(look.token, "on {xs} head")
    yield (
        _of_hero(
            rng,
            look,
            "[what does {x} wear|what is {x} wearing|what has {x} got on|what is "
            f"{at}|what does {{x}} have {at}|what do you see {at}]",
        ),
        phrases.article(look.token),
    )
    yield (
        fill(
            rng,
            "[what kind of animal is [the hero|this|it]|which animal is the hero|"
            "what animal [is it|is this|do you see]|what species is [it|the hero|the animal]]",
        ),
        phrases.article(look.species),
    )


def checks_of_hero(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Whether the hero has a given trait; it has every other time."""
    if scene.stand is None:
        return
    look = scene.stand.hero
    colour = rng.choice((look.colour, rng.choice(tuple(COLOURS))))
    yield _of_hero(rng, look, "is {x} {colour}", colour=colour), _yes(colour == look.colour)
    pattern = rng.choice((look.pattern, rng.choice(PATTERNS)))
    yield _of_hero(rng, look, "is {x} {pattern}", pattern=pattern), _yes(pattern == look.pattern)
    token = rng.choice((look.token, rng.choice(tuple(TOKENS))))
    form = "[does {x} wear|is {x} wearing|does {x} have|has {x} got] {token}"
    yield (
        _of_hero(rng, look, form, token=phrases.article(token)),
        _yes(token == look.token),
    )


def _of_hero(rng: random.Random, look: Hero, form: str, **values: str) -> str:
    """A form about a hero, `{x}`, and what is its own, `{xs}`."""
    name = rng.choice((look.species, "animal", "hero"))
    x, own = rng.choice(((f"the {name}", f"the {name}'s"), ("it", "its")))
    return fill(rng, form, x=x, xs=own, **values)


def _told(item: Group | Stand) -> str:
    """A group, or what animal the hero is."""
    return (
        phrases.noun_phrase(item) if isinstance(item, Group) else phrases.article(item.hero.species)
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


_WEATHERS = {"rain": "it is raining", "snow": "it is snowing", "fog": "it is foggy"}


def _named(rng: random.Random, group: Group) -> tuple[str, str]:
    """A group as it is asked about, and the verb that agrees with it."""
    if group.number > 1:
        return phrases.plural(group.noun), "are"
    return phrases.word(rng, group.noun, 0.3), "is"


FAMILIES: dict[str, QuestionFamily] = {
    "kind": kinds,
    "where": places_of_things,
    "number": numbers,
    "presence": presence,
    "neighbours": neighbours,
    "size": sizes,
    "setting": setting,
    "checks": checks,
    "hero": hero,
    "checks of hero": checks_of_hero,
}


def ask(rng: random.Random, scene: StorybookScene, ordinal: str | None = None) -> Pair:
    """A question about one detail of a scene and its answer, both as sentences.

    With `ordinal` it is about the "second" of several pictures, which it names.
    """
    families = [list(family(rng, scene)) for family in FAMILIES.values()]
    question, answer = rng.choice(rng.choice([pairs for pairs in families if pairs]))
    if ordinal:
        form = "[{q} in the {o} [picture|image]|in the {o} [picture|image], {q}]"
        question = fill(rng, form, q=question, o=ordinal)
    return capitalised(question) + rng.choice(("?", "?", "?", "")), capitalised(answer) + "."

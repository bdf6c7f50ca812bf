"""Questions about images and their answers, in families of forms."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill
from model.training.world.storybook.painting.hero import PATTERNS
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import Group, groups, side_of
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
            "what can be seen {side}]"
        )
        yield fill(rng, form, side=side), f"{phrases.noun_phrase(group)}"


def places_of_things(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Where a thing is in the image."""
    for group in groups(scene):
        name, be = _named(rng, group)
        form = (
            "[where {be} the {name}|where do you see the {name}|"
            "on which side {be} the {name}|where can I find the {name}]"
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
                "how many {nouns} are in the picture]"
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
    form = "[is there {what}|do you see {what}|can you see {what}|is {what} in the picture]"
    for noun, answer in answers:
        what = phrases.article(noun) if NOUNS[noun].counted else f"any {noun}"
        yield fill(rng, form, what=what), answer


def sizes(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """Whether a thing is small or big, of those that are."""
    for group in groups(scene):
        if group.size != "normal" and group.number == 1:
            form = "[how big is the {name}|is the {name} big or small|what size is the {name}]"
            yield fill(rng, form, name=group.noun), group.size


def setting(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """The place, the time of day, the weather."""
    where = (
        "[where is this|what place is this|where was this taken|"
        "where does this take place|what is the setting]"
    )
    yield fill(rng, where), phrases.where(scene.setting)
    time = "[what time of day is it|is it day or night|when is this|what is the time of day]"
    yield fill(rng, time), scene.setting.time
    weather = "[what is the weather like|how is the weather|what's the weather|what weather is it]"
    if scene.setting.weather != "clear":
        yield fill(rng, weather), _WEATHERS[scene.setting.weather]


def hero(rng: random.Random, scene: StorybookScene) -> Iterator[Pair]:
    """The hero's species, colour, pattern and token."""
    if scene.stand is None:
        return
    look = scene.stand.hero
    animal = rng.choice((look.species, "animal", "hero"))
    yield (
        fill(
            rng,
            "[what colour is the {x}|which colour does the {x} have|what is the colour of the {x}]",
            x=animal,
        ),
        look.colour,
    )
    choices = ", ".join(PATTERNS[:-1]) + f" or {PATTERNS[-1]}"
    yield (
        fill(
            rng,
            "[is the {x} {choices}|what pattern does the {x} have|what is the pattern of the {x}]",
            x=animal,
            choices=choices,
        ),
        look.pattern,
    )
    yield (
        fill(
            rng,
            "[what does the {x} wear|what is the {x} wearing|what has the {x} got on]",
            x=animal,
        ),
        phrases.article(look.token),
    )
    yield (
        fill(rng, "[what kind of animal is the hero|which animal is the hero|what animal is it]"),
        phrases.article(look.species),
    )


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
    "size": sizes,
    "setting": setting,
    "hero": hero,
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

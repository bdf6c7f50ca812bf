"""Wishes to see the hero of an image again: somewhere else, at another time, with something."""

from __future__ import annotations

import random

from model.training.world.storybook.language.grammar import asked, phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill, mistyped
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import groups

_MISTYPED = 0.08


def ask(rng: random.Random, after: StorybookScene, name: str | None = None) -> str:
    """A request for the same hero in another scene, whose things, place and time it names.

    The hero is called by its `name` or, without one, by other words.
    """
    assert after.hero is not None
    species = after.hero.species
    others = ("it", "him", "her", f"this {species}", f"the {species}", f"my {species}", "the hero")
    who = name or rng.choice(others)
    group = phrases.noun_phrase(groups(after)[0], rng, 0.2)
    form = (
        "[[draw|paint|show] [me |]{who} [again |]{with} {where} {when}[.|!|]|"
        "now [draw|paint|put] {who} {where} {when} {with}[.|!|, please.]|"
        "[the same|the same picture], but {where} {when} and {with}[.|]|"
        "[can you|could you] [draw|paint] {who} {where} {when} {with}?|"
        "[what would|how would] {who} look {where} {when} {with}?|"
        "I want to see {who} {where} {when} {with}[.|]]"
    )
    text = fill(
        rng,
        form,
        who=who,
        where=asked.where(after.setting, rng),
        when=asked.when(after.setting, rng),
        **{"with": rng.choice((f"with {group}", f"next to {group}", f"beside {group}"))},
    )
    text = capitalised(text)
    return mistyped(rng, text) if rng.random() < _MISTYPED else text

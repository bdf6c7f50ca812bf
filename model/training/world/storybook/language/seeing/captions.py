"""Descriptions of images, as answers and as questions for them."""

from __future__ import annotations

import random

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import groups, side_of
from model.training.world.words import joined


def ask(rng: random.Random) -> str:
    """A request for a description."""
    form = (
        "[what is in [the|this] [picture|image|photo]?|"
        "what's in [the|this] [picture|image]?|"
        "[please |]describe [the|this] [picture|image|scene][.|, please.]|what do you see[ here|]?|"
        "what can you see in [the|this] [picture|image]?|"
        "[can|could] you describe [this|it|the picture]?|"
        "tell me what [is in the picture|you see][.|]|"
        "what does [the|this] [picture|image] show?|"
        "caption this[.| picture.| image.]|write a caption[.| for this picture.]|what is this?|"
        "what am I looking at?|what is going on here?]"
    )
    return capitalised(fill(rng, form))


def describe(scene: StorybookScene) -> str:
    """Everything in a scene in one sentence: each thing with its side, then place and time."""
    entries = [
        (group.x, f"{phrases.noun_phrase(group)} {phrases.at_side(group.side)}")
        for group in groups(scene)
    ]
    if scene.stand:
        side = phrases.at_side(side_of(scene.stand.x))
        entries.append((scene.stand.x, f"{phrases.hero_phrase(scene.stand.hero)} {side}"))
    what = joined([phrase for _, phrase in sorted(entries)])
    return capitalised(f"{what}, {phrases.where(scene.setting)} {phrases.when(scene.setting)}.")

"""How people describe an animal: its coat, and what it wears, as far as they tell it."""

from __future__ import annotations

import random

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import fill
from model.training.world.storybook.painting.hero import UNTOLD, Hero

_AS_IN_CAPTIONS = 0.5  # Of whole looks.
_OTHER_WORDS = 0.17  # Of colours and of animals.

_COLOURS = {
    "blue": "light blue|dark blue|sky-blue",
    "green": "bright green|dark green",
    "pink": "bright pink|rosy",
    "purple": "violet|lilac",
    "white": "snow-white|all white",
    "red": "bright red|dark red",
}
_PATTERNS = {
    "spotted": ("spotted|dotted|polka-dotted|spotty", "spots|dots|polka dots"),
    "striped": ("striped|stripy", "stripes"),
}
_TOKENS = {
    "crown": (
        "with a [|golden |little ]crown[| on its head]|wearing a [|golden ]crown|with a tiara|"
        "that wears a crown"
    ),
    "top hat": (
        "with a [|black |tall ]top hat[| on its head]|wearing a [top hat|black hat|tall hat]|"
        "in a top hat"
    ),
    "sun hat": (
        "with a [sun hat|straw hat|summer hat|hat][| on its head]|"
        "wearing a [sun hat|straw hat|hat]|in a [sun|straw] hat"
    ),
    "bow": "with a [|pink |red |big ]bow[| on its head]|wearing a [bow|ribbon]|with a ribbon",
    "flower": (
        "with a [|red |pretty ]flower [at|behind|in|over] [the|its] ear|"
        "with a flower[| on its head]|wearing a flower"
    ),
    "scarf": (
        "with a [|red |warm |woolly ]scarf[| around its neck]|wearing a [|red |warm ]scarf|"
        "in a [|warm ]scarf"
    ),
}


def described(look: Hero, rng: random.Random) -> str:
    """An animal with its article and all that is told of its look."""
    if UNTOLD not in (look.colour, look.token) and rng.random() < _AS_IN_CAPTIONS:
        return phrases.hero_phrase(look)
    colour = look.colour
    if colour in _COLOURS and rng.random() < _OTHER_WORDS:
        colour = fill(rng, f"[{_COLOURS[colour]}]")
    adjective, marks = _PATTERNS.get(look.pattern, ("", ""))
    name = phrases.word(rng, look.species, _OTHER_WORDS)
    if colour and marks:
        form = (
            "[{adjective} {colour} {name}|{colour} {adjective} {name}|"
            "{colour} and {adjective} {name}|{colour} {name} with {marks}]"
        )
    elif marks:
        form = "[{adjective} {name}|{adjective} {name}|{name} with {marks}]"
    else:
        form = "{colour} {name}"
    body = fill(
        rng,
        form,
        colour=colour,
        name=name,
        adjective=fill(rng, f"[{adjective}]"),
        marks=fill(rng, f"[{marks}]"),
    )
    worn = fill(rng, f"[{_TOKENS[look.token]}]") if look.token else ""
    return f"{phrases.article(body)} {worn}".strip()

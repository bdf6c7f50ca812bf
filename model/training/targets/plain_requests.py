"""Plain questions and requests from a grammar, none of which asks for an image.

The untouched language model answers them, and training keeps its answers (`chat.py`). The held-out
questions of `evaluation/chat` are none of these.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

_THINGS = (
    "a volcano", "a glacier", "gravity", "a rainbow", "photosynthesis", "an earthquake", "a magnet",
    "electricity", "a desert", "a coral reef", "the moon", "a comet", "a microscope", "a telescope",
    "a compass", "a lighthouse", "a bridge", "a windmill", "a steam engine", "a vaccine", "a virus",
    "the heart", "the brain", "a muscle", "a skeleton", "democracy", "a parliament", "inflation",
    "a bank", "a budget", "a novel", "an orchestra", "a symphony", "jazz", "a piano", "a violin",
    "a computer", "a keyboard", "the internet", "an algorithm", "a database", "a robot",
    "a forest", "a river", "an ocean", "the tide", "a thunderstorm", "snow", "fog", "a hurricane",
    "yeast", "cheese", "chocolate", "coffee", "tea", "a garden", "compost", "a seed",
    "a battery", "a beehive",
)  # fmt: skip
_ANIMALS = (
    "elephants", "penguins", "dolphins", "owls", "bees", "ants", "wolves", "bears", "turtles",
    "sharks", "frogs", "horses", "kangaroos", "camels", "eagles", "parrots", "snakes", "bats",
    "rabbits", "foxes", "squirrels", "whales", "crocodiles", "hedgehogs", "giraffes", "lizards",
)  # fmt: skip
_PLACES = (
    "Portugal", "Norway", "Kenya", "Peru", "Vietnam", "Canada", "Mexico", "Morocco", "Greece",
    "Poland", "Turkey", "Chile", "Iceland", "New Zealand", "South Africa", "India", "Argentina",
    "the Netherlands", "Switzerland", "Finland", "Nepal", "Cuba", "Ireland", "Thailand",
)  # fmt: skip
_AIMS = (
    "sleep better", "learn a language", "save money", "stay healthy", "cook rice", "bake bread",
    "make new friends", "prepare for an exam", "write a letter", "plan a trip", "grow tomatoes",
    "learn to swim", "remember names", "wake up early", "speak in public", "clean a kitchen",
    "choose a book", "train a dog", "fix a bicycle tyre", "reduce stress", "start running",
    "organise my desk", "wrap a present", "drink more water", "find a job", "learn to type",
)  # fmt: skip
_TOPICS = (
    "the sea", "autumn", "friendship", "music", "the stars", "winter", "a quiet morning", "hope",
    "rain", "the city at night", "old books", "mountains", "time", "a summer evening", "family",
    "courage", "silence", "bread", "trains", "the wind",
)  # fmt: skip
_KINDS = (
    "vegetables", "musical instruments", "sports", "metals", "rivers", "trees", "flowers", "spices",
    "kitchen tools", "jobs", "languages", "oceans", "board games", "school subjects", "emotions",
    "breakfast foods", "vehicles", "pieces of furniture", "birds", "insects", "planets", "herbs",
)  # fmt: skip
_QUALITIES = (
    "quiet", "narrow", "generous", "ancient", "rough", "sweet", "shallow", "brave", "polite",
    "empty", "sharp", "early", "noisy", "thick", "careful", "simple", "strong", "dirty", "lazy",
)  # fmt: skip
_PARTNERS = (
    "Good afternoon.", "Hi there!", "Good evening!", "Thanks a lot.", "Hey, how is it going?",
    "I am bored.", "I had a long day.", "I am a little nervous today.",
    "Who made you?", "Can you help me?", "See you tomorrow!", "I do not understand.", "Okay.",
    "Tell me something interesting.", "Do you speak Spanish?", "What should I do today?",
    "Good night!",
    "I am hungry.", "It is raining again.", "I passed my exam!", "My friend is moving away.",
    "Are you a person?", "Do you ever get tired?", "I like you.", "What is your favourite food?",
    "Tell me a joke.", "Another joke, please.", "Tell me a riddle.", "Sing me a song.", "Really?",
    "Why?", "Tell me more.", "What do you mean?", "Never mind.", "Please be brief.",
    "You are wrong.", "Thank you so much!", "That was great, thanks.", "Count to ten.",
    "How old are you?", "I feel sad.", "Say something nice.", "What day is it?", "Write a haiku.",
    "Recommend a book.", "Recommend a film.", "Give me a quote.", "Teach me a word.", "Let's talk.",
)  # fmt: skip
_NAMED = (
    "a puppy", "a kitten", "a parrot", "a goldfish", "a baby", "a boat", "a café", "a bakery",
    "a band", "a robot", "a teddy bear", "a horse", "a garden shop", "a football team",
)  # fmt: skip

_FORMS: Mapping[str, Sequence[str]] = {
    "thing": (
        "What is {thing}?", "Can you explain what {thing} is?", "Explain {thing} to a child.",
        "Why is {thing} important?", "Tell me about {thing}.", "Describe {thing} in one sentence.",
        "What do people know about {thing}?", "How would you define {thing}?",
    ),
    "animal": (
        "What do {animal} eat?", "Where do {animal} live?", "Are {animal} dangerous?",
        "How long do {animal} live?", "Tell me a fact about {animal}.",
        "Why do people like {animal}?", "Do you like {animal}?", "I love {animal}.",
        "Which are faster, {animal} or turtles?", "What sound do {animal} make?",
    ),
    "place": (
        "What is {place} known for?", "What language do people speak in {place}?",
        "Which continent is {place} part of?", "What should I eat in {place}?",
        "When is a good time to visit {place}?",
    ),
    "aim": (
        "How can I {aim}?", "Give me three tips to {aim}.", "What is the best way to {aim}?",
        "I want to {aim}. Where do I start?", "Why is it hard to {aim}?",
    ),
    "topic": (
        "Write a short poem about {topic}.", "Write two sentences about {topic}.",
        "Give me a title for an essay about {topic}.",
        "What comes to mind when you think of {topic}?",
        "Write a slogan about {topic}.",
    ),
    "kind": (
        "Name four {kind}.", "List some {kind}.", "Which {kind} do you know?",
        "What is your favourite among {kind}?", "Give me examples of {kind}.",
    ),
    "quality": (
        "What does {quality} mean?", "Give me a synonym for {quality}.",
        "Use the word {quality} in a sentence.", "What is the opposite of {quality}?",
    ),
    "sum": (
        "What is {first} plus {second}?", "{first} + {second} = ?", "Add {first} and {second}.",
    ),
    "named": (
        "Give me three names for {named}.", "Suggest a name for {named}.",
        "What would you call {named}?", "List five good names for {named}.",
    ),
    "partner": ("{partner}",),
}  # fmt: skip
_WORDS: Mapping[str, Sequence[str]] = {
    "thing": _THINGS,
    "animal": _ANIMALS,
    "place": _PLACES,
    "aim": _AIMS,
    "topic": _TOPICS,
    "kind": _KINDS,
    "quality": _QUALITIES,
    "named": _NAMED,
    "partner": _PARTNERS,
}
_LARGEST = 60


def plain_requests(number: int, seed: int) -> list[str]:
    """Different requests, a function of number and seed.

    Raises:
        ValueError: the grammar does not have so many.
    """
    rng = random.Random(f"{seed}/plain requests")
    found: dict[str, None] = {}
    for _ in range(20 * number):
        if len(found) == number:
            return list(found)
        found.setdefault(_draw(rng))
    raise ValueError(f"the grammar has fewer than {number} requests")


def _draw(rng: random.Random) -> str:
    kind = rng.choice(list(_FORMS))
    words = {name: rng.choice(known) for name, known in _WORDS.items()}
    first, second = rng.randint(11, _LARGEST), rng.randint(2, _LARGEST)
    return rng.choice(_FORMS[kind]).format(first=first, second=second, **words)

"""Illustrated stories: varied plots of feelings, actions and dialogue, one image a page.

A plot is a chain of pieces. Each piece tells one page in which the hero meets one thing; what it
says is drawn on that page, and nothing else: the hero's look stays out of the words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill, mistyped
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.places import PLACES, TIMES, WEATHERS, Setting
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.composition import in_a_row
from model.training.world.storybook.telling.group import groups
from model.training.world.words import NUMBERS

# {n} the hero's name, {x} the thing with its article, {t} the thing with "the", {w} where it is,
# {g} the place as a goal, {f} a feeling.
OPENINGS = (
    "[One day|Once|One {time}], {n} went {g}. There {n} found {x}.",
    '{n} woke up and felt {f}. ["Today I will go {g}!"|"Off {g}!"] And there stood {x}.',
    'It was {time} when {n} came {g}. "Look, {x}!" said {n}.',
    "{n} had never been {g} before. The first thing {n} saw was {x}.",
    "Everybody knew {n}. But nobody knew that {n} had found {x} {w}.",
    '"What a fine {time}!" said {n} and walked {g}, where {x} was waiting.',
    "{n} was bored, so {n} went {g} to look for {x}. It did not take long.",
    "Long ago, {w}, {n} met {x}.",
    "{n} could not believe it: {w} there was {x}!",
    "{n} had a secret. {n} kept {x} {w}.",
    "Far away, {w}, somebody had left {x}. {n} found it.",
    'A letter came for {n}: "Come {g}. You will find {x} there." And so it was.',
)
MIDDLES = (
    'Then {n} came upon {x}. "May I play with you?" asked {n}.',
    "A little later {n} saw {x} and felt {f}.",
    '"What is that?" whispered {n}. It was {x}.',
    "{n} ran and ran, until {x} stood in the way.",
    "Suddenly there was {x}. {n} laughed out loud.",
    "{n} heard a noise. Behind it all was {x}!",
    '"I wish I had a friend," said {n}. Just then {x} appeared.',
    "{n} danced around {t} three times.",
    "{n} sat down next to {x} and had a rest.",
    'Next, {n} found {x}. "This is my lucky day!"',
    "{n} climbed over a stone and discovered {x}.",
    '"Excuse me, is this yours?" {n} asked about {x}. Nobody answered.',
    "{n} tiptoed past {x}, as quiet as could be.",
    "{n} was hungry and thought of supper, but there was only {x}.",
    '"Hello there!" called {n} to {x}.',
    "{n} counted to ten, opened both eyes, and saw {x}.",
    "The wind blew, and it blew {n} right to {x}.",
    "{n} followed a trail, and it led to {x}.",
    "{n} wanted to go home, but {x} was far too interesting.",
    '"Wait for me!" cried {n}, and hurried to {x}.',
    "{n} told {t} a joke and giggled.",
    "{n} had an idea: {x} was just what was needed.",
    "Nobody had told {n} about {x}. What a surprise!",
    "{n} felt a little {f}. Then {x} came into sight.",
    "{n} gave {t} a name and was very proud of it.",
    '"I will take care of you," said {n} to {x}.',
    "{n} turned left, turned right, and bumped into {x}.",
    "{n} hid and waited. Soon there was {x}.",
    "A friend had promised {n} a present: it was {x}!",
    "{n} sang a song for {x}.",
    "{n} looked up, {n} looked down, and there was {x}.",
    '"One, two, three, found you!" {n} had found {x}.',
    "{n} stopped. Something was there: {x}.",
    "{n} had dreamed of {x} all week long.",
    '"That is the best {bare} I have ever seen," said {n}.',
    "{n} wondered who had brought {x} here.",
    "{n} jumped for joy when {x} turned up.",
    "It grew quiet. {n} and {t} looked at each other for a long time.",
    "{n} shared a secret with {x}.",
    "{n} got lost, but {x} showed the way.",
)
ENDINGS_OF_PLOTS = (
    "At last {n} was tired and lay down beside {x}.",
    '"It is late," said {n}, and took one last look at {x}.',
    "And guess what waited at the end of the day? {x_}!",
    "{n} slept next to {x} and dreamed of tomorrow.",
    '"What a day!" said {n}, leaning on {x}.',
    "{n} waved goodbye. Only {x} stayed with {n}.",
    "That evening {n} felt {f}, and {x} was there too.",
    "{n} promised to come back to {x} soon.",
    "Home again! And there, as a surprise, was {x}.",
    '{n} yawned. "Good night," said {n} to {x}.',
)
# The first word after an image says whether the page is the last one.
LAST_PAGES = (
    "Finally, the day was almost over.",
    "So the adventure came to an end.",
    "Last came the best part.",
    "To finish the day, there was one more thing.",
)
_FEELINGS = (
    "happy", "brave", "curious", "shy", "proud", "sleepy", "excited", "lonely", "cheerful",
    "nervous", "calm", "merry",
)  # fmt: skip
_CLOSINGS = (
    "The end.", "Good night, {n}!", "And that was {n}'s adventure.", "Sleep well, {n}!",
    "And tomorrow {n} will go again.", "What will {n} find next?",
)  # fmt: skip
_LATER = {
    "morning": ("The next morning, {w}:", "Early the next day, {w}:"),
    "day": ("Later that day, {w}:", "At noon, {w}:"),
    "evening": ("In the evening, {w}:", "As the sun went down, {w}:"),
    "night": ("At night, {w}:", "When it was dark, {w}:"),
}
_TURNS_OF_WEATHER = {
    "rain": "It began to rain.",
    "snow": "It started to snow.",
    "fog": "Fog rolled in.",
}
_IN_DIGITS = 0.25  # Of numbers of images.
_UNCOUNTED = 0.3  # Of wishes for three images.


@dataclass(frozen=True)
class StorybookPage:
    """Some text and the scene of the image after it."""

    text: str
    scene: StorybookScene


@dataclass(frozen=True)
class StorybookStory:
    """A hero's portrait and a wish, then the pages that answer them.

    Attributes:
        introduction: names the hero of the portrait.
        wish: what the user asks for; it says the number of images.
        portrait: the hero alone.
        pages: text and scene of each image.
        closing: the last words.
    """

    introduction: str
    wish: str
    portrait: StorybookScene
    pages: tuple[StorybookPage, ...]
    closing: str

    @property
    def wish_sentence(self) -> str:
        """The wish with a mark at its end, so that a sentence can follow."""
        return self.wish if self.wish.endswith((".", "!", "?")) else f"{self.wish}."

    def wish_about(self, who: str) -> str | None:
        """The wish with other words for the hero; None if it does not spell the name."""
        assert self.portrait.hero is not None
        name = self.portrait.hero.name
        return self.wish.replace(name, who) if name in self.wish else None

    def about_hero(self, rng: random.Random) -> str:
        """A sentence that says of which species the hero is, for those who have no portrait."""
        hero = self.portrait.hero
        assert hero is not None
        form = "[{n} is a [little |]{s}|{n} is my {s}|The hero is a {s} called {n}][.|!]"
        return fill(rng, form, n=hero.name, s=hero.species)


def sample_story(rng: random.Random) -> StorybookStory:
    """A random story of one to five pages."""
    hero = Hero.sample(rng)
    portrait = in_a_row(StorybookScene.with_things(rng, Setting.sample(rng), (), hero))
    number = rng.choices((1, 2, 3, 4, 5), (1, 3, 4, 3, 2))[0]
    place = rng.choice(tuple(PLACES))
    view = rng.randrange(len(PLACES[place].yaws))
    nouns = rng.sample(tuple(NOUNS), number)
    pages: list[StorybookPage] = []
    setting = Setting(place, view, rng.choice(TIMES[:2]))
    for index, noun in enumerate(nouns):
        setting = setting if not index else _next_setting(rng, setting)
        scene = StorybookScene.with_things(rng, setting, ((noun, "normal"),), hero)
        scene = in_a_row(scene, hero_first=True)
        previous = pages[-1].scene.setting if pages else None
        pages.append(
            StorybookPage(_page_text(rng, scene, hero.name, index, number, previous), scene)
        )
    return StorybookStory(
        introduction=introduction(rng, hero),
        wish=_wish(rng, pages[0].scene, hero.name, number),
        portrait=portrait,
        pages=tuple(pages),
        closing=fill(rng, rng.choice(_CLOSINGS), n=hero.name),
    )


def _next_setting(rng: random.Random, setting: Setting) -> Setting:
    """The same place a little later, perhaps in other weather; now and then another place."""
    if rng.random() < 0.2:
        place = rng.choice(tuple(PLACES))
        setting = Setting(place, rng.randrange(len(PLACES[place].yaws)), setting.time)
    time = TIMES[min(TIMES.index(setting.time) + rng.randint(0, 1), len(TIMES) - 1)]
    weather = setting.weather
    if PLACES[setting.place].indoors:
        weather = "clear"
    elif rng.random() < 0.3:
        weather = rng.choice(WEATHERS)
    return replace(setting, time=time, weather=weather)


def _page_text(
    rng: random.Random,
    scene: StorybookScene,
    name: str,
    index: int,
    number: int,
    previous: Setting | None,
) -> str:
    """The sentences before an image: when and where things changed, then a piece of the plot."""
    noun = scene.things[0].noun
    thing = phrases.noun_phrase(groups(scene)[0])
    pieces: tuple[str, ...] = MIDDLES
    announced = ""
    if previous is None:
        pieces = OPENINGS
    elif index == number - 1:
        pieces = ENDINGS_OF_PLOTS
        announced = rng.choice(LAST_PAGES)
    text = fill(
        rng,
        rng.choice(pieces),
        n=name,
        x=thing,
        x_=capitalised(thing),
        t=f"the {noun}",
        bare=noun,
        w=phrases.where(scene.setting),
        g=phrases.going(scene.setting.place),
        f=rng.choice(_FEELINGS),
        time=scene.setting.time,
    )
    lead = ""
    if previous is not None and (previous.place, previous.time) != (
        scene.setting.place,
        scene.setting.time,
    ):
        lead = fill(rng, rng.choice(_LATER[scene.setting.time]), w=phrases.where(scene.setting))
    weather = ""
    if scene.setting.weather != "clear" and (
        previous is None or previous.weather != scene.setting.weather
    ):
        weather = _TURNS_OF_WEATHER[scene.setting.weather]
    return " ".join(part for part in (announced, weather, lead, text) if part)


def introduction(rng: random.Random, hero: Hero) -> str:
    """Words beside the hero's portrait."""
    form = (
        "[this is {n}|meet {n}|look, this is {n}|here is {n}|here's a picture of {n}"
        "|this is my {s} {n}|my {s} is called {n}|{n} is my favourite {s}][.|!]"
    )
    return capitalised(fill(rng, form, n=hero.name, s=hero.species))


def _wish(rng: random.Random, first: StorybookScene, name: str, number: int) -> str:
    """What the user asks for: mostly thing and place of the first page, and the number of images.

    Without a number of images three are meant.
    """
    thing = phrases.noun_phrase(groups(first)[0], rng, 0.2)
    form = (
        "[[tell|write] [me |]a [story|little story|bedtime story|picture story] {many}"
        "[ about {n} and {x} {w}|: {n} finds {x} {w}| where {n} finds {x} {w}][.|!|]|"
        "[can you|could you|please] [tell|write|make up] a story [about|with] {n} and {x} {w}, "
        "{many}[.|?|]|"
        "I'd [like|love] a [story|picture book] {many}, in which {n} meets {x} {w}[.|]|"
        "a story {many}: {n}, {x}, {place}[.|]|"
        "what happens when {n} meets {x} {w}? Tell it {many}[.|]|"
        "[[tell|write] [me |]|I'd like |please write |make up |]a [story|short story|bedtime story"
        "|fairy tale] [{many} about {n}|about {n} {many}|about {n}, {many}][.|!|, please.|]]"
    )
    text = fill(
        rng,
        form,
        n=name,
        x=thing,
        w=phrases.where(first.setting, rng),
        many=_many(rng, number),
        place=first.setting.place,
    )
    text = capitalised(text)
    return mistyped(rng, text) if rng.random() < 0.08 else text


def _many(rng: random.Random, number: int) -> str:
    """How many images a story shall have."""
    if number == 3 and rng.random() < _UNCOUNTED:
        return rng.choice(("with pictures", "with illustrations", "in pictures"))
    if number == 1:
        return rng.choice(("in one picture", "with one picture", "with a single picture"))
    counted = str(number) if rng.random() < _IN_DIGITS else NUMBERS[number]
    form = "[in {k} pictures|with {k} [pictures|images|illustrations]|on {k} pages]"
    return fill(rng, form, k=counted)

"""Requests for an image, in families of forms; some families are never trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from model.training.world.storybook.language.grammar import asked, phrases
from model.training.world.storybook.language.grammar.forms import capitalised, fill, mistyped
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.telling.group import Group, groups, items, side_of
from model.training.world.words import joined

RequestFamily = Callable[[random.Random, StorybookScene], str]

_SHUFFLED = 0.5  # Of arranged scenes; in the others things come from left to right.
_SIDE_FIRST = 0.25  # Of arranged scenes: "on the left a tent".
_DRAW = "[draw|paint|sketch|make|create|show me|generate|illustrate|give me]"
_PICTURE = "[picture|image|drawing|painting|illustration]"


def _scene(rng: random.Random, scene: StorybookScene) -> str:
    """The whole scene in one phrase, parts in one of several orders, some of them left out."""
    what = asked.listed(asked.subjects(scene, rng), rng)
    where, when = asked.where(scene.setting, rng), asked.when(scene.setting, rng)
    orders = ["{what} {where} {when}", "{what} {when} {where}"]
    if where and when:
        orders.append("{what} {where}, {when}")
    return " ".join(rng.choice(orders).format(what=what, where=where, when=when).split())


def imperative(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Draw two cats in the forest at night."""
    ending = "[.|!||, please.| please]"
    return capitalised(fill(rng, _DRAW + " {scene}" + ending, scene=_scene(rng, scene)))


def imperative_picture(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Make a picture of two cats in the forest."""
    form = (
        "[draw|make|create|paint|show me|give me|generate] [a|a nice|a beautiful] "
        f"{_PICTURE} of {{scene}}[.||!]"
    )
    return capitalised(fill(rng, form, scene=_scene(rng, scene)))


def polite(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Could you please draw two cats in the forest."""
    form = (
        "[could you|can you|would you|will you] [please||kindly] "
        "[draw|paint|make|create|show me|sketch]"
        f" [me||for me] [{{scene}}|a {_PICTURE} of {{scene}}][?| please?]"
    )
    return capitalised(fill(rng, form, scene=_scene(rng, scene)).replace("show me me", "show me"))


def wish(rng: random.Random, scene: StorybookScene) -> str:
    """As in: I would like to see two cats in the forest."""
    form = (
        "[I'd like|I would like|I want|I'd love|I need] "
        f"[to see {{scene}}|a {_PICTURE} of {{scene}}|a {_PICTURE} with {{scene}}][.||, please.]"
    )
    return fill(rng, form, scene=_scene(rng, scene))


def noun_first(rng: random.Random, scene: StorybookScene) -> str:
    """As in: A picture of two cats in the forest, please."""
    form = f"[a|one] {_PICTURE} [of|with|showing] {{scene}}[|, please|.|!]"
    return capitalised(fill(rng, form, scene=_scene(rng, scene)))


def fragment(rng: random.Random, scene: StorybookScene) -> str:
    """As in: two cats, forest, night."""
    parts = [part.removeprefix("a ").removeprefix("an ") for part in asked.subjects(scene, rng)]
    setting = scene.setting
    where = rng.choice((setting.place, asked.where(setting, rng)))
    time = "" if setting.time == "day" and rng.random() < 0.5 else setting.time
    weather = "" if setting.weather == "clear" else setting.weather
    is_mixed = rng.random() < 0.4
    for part in filter(None, (where, time, weather)):
        # Things stay in their order, which is that of the image.
        parts.insert(rng.randint(0, len(parts)) if is_mixed else len(parts), part)
    return ", ".join(parts)


def bare(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Two cats in the forest at night."""
    return capitalised(_scene(rng, scene)) + rng.choice(("", ".", ""))


def place_first(rng: random.Random, scene: StorybookScene) -> str:
    """As in: In the forest at night: two cats. Draw this."""
    what = asked.listed(asked.subjects(scene, rng), rng)
    where, when = asked.where(scene.setting, rng), asked.when(scene.setting, rng)
    form = (
        "[{run_on}: {what}. [draw|paint|show] [this|that|it].|"
        "[draw|paint] [a scene|something] {place_first}, with {what}.|"
        "{time_first}: {what}. [a picture, please.|draw it, please.]]"
    )
    text = fill(
        rng,
        form,
        what=what,
        run_on=" ".join(filter(None, (where, when))),
        place_first=", ".join(filter(None, (where, when))),
        time_first=", ".join(filter(None, (when, where))),
    )
    return capitalised(text)


def arranged(rng: random.Random, scene: StorybookScene, order: Sequence[int] | None = None) -> str:
    """As in: Draw the forest at night. Put two cats on the left and a tent on the right.

    Things are told in a given order, by their numbers from the left, or from left to right.
    """
    names, sides = asked.subjects(scene, rng), _sides(scene)
    at = "{side} {name}" if rng.random() < _SIDE_FIRST else "{name} {side}"
    placed = [
        at.format(name=names[number], side=phrases.at_side(sides[number]))
        for number in (range(len(names)) if order is None else order)
    ]
    what = joined(placed)
    form = (
        "[[draw|paint|make] [a scene|a picture] {where} {when}[.|,|:] "
        "[put|place|with|there should be|there is] {what}[.||!]|"
        "[draw|paint|show me|I'd like|can you draw|a picture with|] {what}[,|] {where} {when}"
        "[.|!||, please.]]"
    )
    where, when = asked.where(scene.setting, rng), asked.when(scene.setting, rng)
    return capitalised(fill(rng, form, where=where, when=when, what=what).replace(",.", "."))


def _any_order(rng: random.Random, scene: StorybookScene) -> tuple[int, ...]:
    """An order in which to tell a scene's things, those of each side from left to right.

    Only their order says which of two things on one side stands further left.
    """
    sides = _sides(scene)
    of_side = {side: iter([n for n, other in enumerate(sides) if other == side]) for side in sides}
    if rng.random() < _SHUFFLED:
        rng.shuffle(sides)
    return tuple(next(of_side[side]) for side in sides)


def _sides(scene: StorybookScene) -> list[str]:
    """The side of each thing, from left to right."""
    return [item.side if isinstance(item, Group) else side_of(item.x) for item in items(scene)]


def statement(rng: random.Random, scene: StorybookScene) -> str:
    """As in: There are two cats in the forest. Can you draw that."""
    told = groups(scene)
    several = len(told) + (scene.stand is not None) == 1 and told and told[0].number > 1
    form = (
        "[there {be} {scene}|in my {picture} there {be} {scene}]. "
        "[can you draw [that|it|this]?|draw [that|it|this][, please|].|"
        "please [draw|paint] [it|this].]"
    )
    be = "are" if several else "is"
    picture = rng.choice(("picture", "idea", "dream"))
    return capitalised(fill(rng, form, be=be, picture=picture, scene=_scene(rng, scene)))


def question(rng: random.Random, scene: StorybookScene) -> str:
    """As in: What do two cats look like in the forest."""
    form = (
        "[how about|what about] [{scene}|a " + _PICTURE + " of {scene}]?|"
        "[do you think you could|are you able to] [draw|paint] {scene}?|"
        "[may|can] I [see|have] [{scene}|a " + _PICTURE + " of {scene}][, please|]?"
    )
    return capitalised(fill(rng, f"[{form}]", scene=_scene(rng, scene)))


def correction(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Draw a dog, no, sorry, a cat in the forest."""
    other = rng.choice(tuple(NOUNS))
    wrong = phrases.article(other)
    form = (
        _DRAW + " {wrong}[, no,|... no, sorry,|, I mean|, sorry,|. No, wait:| - oops, I meant] "
        "{scene}[.|]"
    )
    return capitalised(fill(rng, form, wrong=wrong, scene=_scene(rng, scene)))


def purpose(rng: random.Random, scene: StorybookScene) -> str:
    """As in: For my daughter's birthday card: two cats in the forest."""
    form = (
        "[for [a birthday card|my son's room|a children's book|a poster|my class]"
        "[:|, I need|, please draw] {scene}[.|]|"
        "my [daughter|son|niece|little brother] [would love|wants] a "
        + _PICTURE
        + " of {scene}[.|!]]"
    )
    return capitalised(fill(rng, form, scene=_scene(rng, scene)))


def imagined(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Imagine two cats in the forest. What would that look like."""
    form = (
        "[imagine|picture this:|think of] {scene}"
        "[. what would that look like?|. show it to me.|, and draw it.|.]"
    )
    return capitalised(fill(rng, form, scene=_scene(rng, scene)))


def chatty(rng: random.Random, scene: StorybookScene) -> str:
    """As in: Hi! Hope you are well. Today I'd love to see two cats in the forest."""
    form = (
        "[hi|hello|hey|good morning][!|,| there!] "
        "[I was wondering if you could draw|today I'd love to see"
        "|my kids are bored, so please paint|let's try something:|I have an idea for a picture:] "
        "{scene}[.|!||. Thanks!]"
    )
    return capitalised(fill(rng, form, scene=_scene(rng, scene)))


TRAINED: dict[str, RequestFamily] = {
    "imperative": imperative,
    "imperative picture": imperative_picture,
    "polite": polite,
    "wish": wish,
    "noun first": noun_first,
    "fragment": fragment,
    "bare": bare,
    "place first": place_first,
    "arranged": arranged,
    "statement": statement,
    "question": question,
    "correction": correction,
}
ARRANGED: dict[str, RequestFamily] = {"arranged": arranged}
HELD_OUT: dict[str, RequestFamily] = {"purpose": purpose, "imagined": imagined, "chatty": chatty}

# Families whose sentences need a place.
_WITH_PLACE = ("place first",)
_MISTYPED = 0.12
_REMARKED = 0.5  # Of requests of the families to train on.

_SOMEBODY = (
    "[my|our] [grandmother|grandpa|cousin|aunt|uncle|neighbour|teacher|sister|best friend|boss"
    "|wife|husband|dad|mum|nephew]"
)
# What people say before and after a request that does not tell what to draw. Some of it names
# things, which must not be drawn.
_BEFORE = (
    "[I am making a calendar.|We are decorating the kitchen.|The wall over my bed is empty.|"
    "It has been a long day.|I cannot draw at all.|You are really good at this.|OK.|All right,|So,|"
    "Now something else.|Next one:|New request:|Here is what I want:|Something new:|Prompt:|"
    "Wanted:|One more, please:|Right, then:|Let's do another one.|Quick one:|Time for a picture.|"
    "This is what I dreamed last night:|I saw this on holiday:|For the school play:|"
    "For my phone:|For the [front door|fridge|office|hallway|waiting room|website|newsletter]:|"
    "As a [gift|surprise|thank-you|postcard] for {somebody}:|"
    "[A wallpaper|A cover|A bookmark|An invitation|A stamp] for {somebody}:|"
    "{somebody} [asked for this|is waiting for this|wants to hang this up|told me about you]:|"
    "{somebody} [turns five tomorrow|is ill|collects postcards|likes books|is looking over my "
    "shoulder|has a new house].|"
    "It is raining here.|I have [ten minutes|a question|a favour to ask|a wish].|"
    "What I need now:|What we are looking for:|Please help me.|Thanks for the last one.|"
    "Good [morning|afternoon|evening|day][!|.|,]|"
    "Dear [artist|painter|computer|robot],|Listen:|Ready? Go:|Task:|Attention please:]"
)
_AFTER = (
    "[Thank you!|Thanks a lot.|It should be colourful.|Make it pretty.|Take your time.|"
    "Nothing else.|That's all.|I will hang it up.|I hope you can do it.|In a nice style, please.|"
    "It's for [the kitchen|{somebody}|school|my blog|a calendar|the office].|"
    "{somebody} [will be happy|can't wait|likes such things|is going to smile].|"
    "No words, just the image.|Bright colours, please.|As in an old book.|Can't wait!|"
    "[Best wishes|Yours], [Anna|Tom|Mia|Ben].|Is that possible?|You choose the rest.|OK?|"
    "I know you can.|Sorry for the trouble.|And be quick!]"
)


@dataclass(frozen=True)
class ImageRequest:
    """The text of a request, and what of the image it leaves open.

    Attributes:
        text: what the user says.
        has_place: whether it says where.
        order: in which it names things, by their numbers from the left, if it says what stands on
            which side.
    """

    text: str
    has_place: bool
    order: tuple[int, ...] | None


def request(
    rng: random.Random,
    scene: StorybookScene,
    families: Mapping[str, RequestFamily] = TRAINED,
    has_place: bool = True,
) -> ImageRequest:
    """A request for an image of a scene, of a random family, now and then mistyped.

    Those of families to train on may have remarks around them.
    """
    names = [name for name in families if has_place or name not in _WITH_PLACE]
    name = rng.choice(names)
    if not has_place:
        scene = replace(scene, setting=replace(scene.setting, place=phrases.UNTOLD))
    order = _any_order(rng, scene) if name == "arranged" else None
    text = families[name](rng, scene) if order is None else arranged(rng, scene, order)
    if name in TRAINED and rng.random() < _REMARKED:
        text = with_remarks(rng, text)
    if rng.random() < _MISTYPED:
        text = mistyped(rng, text, rng.randint(1, 2))
    return ImageRequest(text, has_place, order)


def with_remarks(rng: random.Random, text: str) -> str:
    """The text after a remark, before one, or both."""
    before, after = ((True, False), (False, True), (True, True))[rng.randrange(3)]
    if after and text[-1] not in ".!?":
        text += "."
    parts = [_remark(rng, _BEFORE)] if before else []
    return " ".join([*parts, text, *([_remark(rng, _AFTER)] if after else [])])


def _remark(rng: random.Random, form: str) -> str:
    return capitalised(fill(rng, form, somebody=fill(rng, _SOMEBODY)))

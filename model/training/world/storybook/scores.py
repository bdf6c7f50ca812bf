"""Scores of the storybook tasks, read from answers by the words and the reader."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np

from model.training.world.drawable import box_overlap
from model.training.world.example import Example, GeneratedAnswer, Rows, Score
from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.seeing.grounding import box_in
from model.training.world.storybook.painting.hero import UNTOLD, Hero
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.reader import read_scene
from model.training.world.storybook.telling.group import groups
from model.training.world.storybook.telling.image import StorybookImage, image_of
from model.training.world.words import ORDINALS

_PAGES = 5


def match_request(asked: StorybookImage, seen: StorybookScene) -> dict[str, bool]:
    """Whether an image shows each thing and each other fact that its request tells."""
    wanted, found = _counts(asked.scene), _counts(seen)
    matches = {f"thing {noun}": found[noun] >= number for noun, number in wanted.items()}
    setting = asked.scene.setting
    if asked.tells_place:
        matches["place"] = setting.place == seen.setting.place
    matches["time"] = setting.time == seen.setting.time
    matches["weather"] = setting.weather == seen.setting.weather
    if (hero := asked.scene.hero) and asked.tells_look:
        matches |= {
            trait: is_right
            for trait, is_right in match_hero(hero, seen).items()
            if getattr(hero, trait) != UNTOLD
        }
    return matches


def match_hero(hero: Hero | None, seen: StorybookScene) -> dict[str, bool]:
    """Whether each trait of a hero is seen; all are wrong where no hero is."""
    traits = ("species", "colour", "pattern", "token")
    are_there = hero is not None and seen.hero is not None
    return {
        trait: are_there and getattr(seen.hero, trait) == getattr(hero, trait) for trait in traits
    }


def _counts(scene: StorybookScene) -> Counter[str]:
    return Counter(thing.noun for thing in scene.things)


def _kind(name: str) -> str:
    return "things" if name.startswith("thing ") else name


def _request(example: Example, answer: GeneratedAnswer) -> Rows:
    """What a request names and what its image shows; a thing counts if it stands at its place."""
    name = "request" if example.task == "text_to_image" else "free-form request"
    asked = image_of(example.images[-1])
    yield f"{name} begins a picture", float(bool(answer.images))
    blank = StorybookScene(asked.scene.setting)
    matches = match_request(asked, read_scene(answer.images[0]) if answer.images else blank)
    by_kind: dict[str, list[bool]] = {}
    for fact, is_right in matches.items():
        by_kind.setdefault(_kind(fact), []).append(is_right and bool(answer.images))
    for kind, values in by_kind.items():
        yield f"{name}, {kind}", float(np.mean(values))
    needed = (*by_kind["things"], *by_kind.get("place", ())) if "things" in by_kind else ()
    yield f"{name} right", float(bool(answer.images) and all(needed))


def _caption(example: Example, answer: GeneratedAnswer) -> Rows:
    """The share of the facts of an image that its description names."""
    scene, text = image_of(example.images[0]).scene, answer.text.lower()
    wanted = [
        f"{phrases.noun_phrase(group)} {phrases.at_side(group.side)}" for group in groups(scene)
    ]
    if scene.stand:
        wanted.append(phrases.hero_phrase(scene.stand.hero))
    wanted += [phrases.where(scene.setting), phrases.when(scene.setting)]
    yield "caption recall", sum(phrase in text for phrase in wanted) / len(wanted)


def _detail_question(example: Example, answer: GeneratedAnswer) -> Rows:
    """Exact matches, by the position of the image in question."""
    question = " ".join(part for part in example.prompt if isinstance(part, str))
    named = next((o for o in ORDINALS if re.search(rf"\b{o} (picture|image)", question)), "only")
    is_right = answer.text.strip() == example.answer[0]
    yield "detail question", float(is_right)
    yield f"detail question, {named} picture", float(is_right)


def _grounding(example: Example, answer: GeneratedAnswer) -> Rows:
    """Overlap of the answered box with the true one."""
    read, true = box_in(answer.text), box_in(str(example.answer[0]))
    assert true is not None
    yield "grounding IoU", box_overlap(read, true) if read else 0.0


def _change(example: Example, answer: GeneratedAnswer) -> Rows:
    """Whether a hero drawn anew is the same, with the thing and the place of the wish."""
    asked = image_of(example.images[-1])
    assert asked.scene.hero is not None
    yield "change begins a picture", float(bool(answer.images))
    if not answer.images:
        yield "change, hero kept", 0.0
        yield "change, as asked", 0.0
        return
    seen = read_scene(answer.images[0])
    yield "change, hero kept", float(all(match_hero(asked.scene.hero, seen).values()))
    matches = match_request(asked, seen)
    needed = [right for name, right in matches.items() if name == "place" or " " in name]
    yield "change, as asked", float(all(needed))


def _story(example: Example, answer: GeneratedAnswer) -> Rows:
    """Whether a story has the requested form, keeps its hero, and shows what its text says."""
    name = example.task
    asked = sum(not isinstance(part, str) for part in example.answer)
    is_as_asked = len(answer.images) == asked and answer.ended
    yield f"{name} has the pictures asked for, and ends", float(is_as_asked)
    seen = [read_scene(image) for image in answer.images[:_PAGES]]
    given = example.images[: example.num_given_images]
    hero, later = image_of(example.images[0]).scene.hero, list(enumerate(seen, 1))
    if not given and seen:
        # A tale has no portrait: its own first image says what the hero looks like.
        assert hero is not None
        is_introduced = seen[0].hero is not None and seen[0].hero.species == hero.species
        yield f"{name} introduces the hero", float(is_introduced)
        hero, later = seen[0].hero, later[1:]
    for number, scene in later:
        matches = match_hero(hero, scene)
        yield f"{name} hero kept", float(all(matches.values()))
        yield f"{name} hero kept, picture {number}", float(all(matches.values()))
        for trait, is_same in matches.items():
            yield f"{name} hero's {trait}", float(is_same)
    # The part before each image, of which the first may have none.
    pages = [text for text, drawn in pairwise((None, *answer.parts)) if not isinstance(drawn, str)]
    for text, scene in zip(pages, seen, strict=False):
        if isinstance(text, str):
            yield f"{name} picture shows the thing of its text", float(_names_one(text, scene))


def _names_one(text: str, scene: StorybookScene) -> bool:
    """Whether a text names one of the things of a scene."""
    return any(re.search(rf"\b{thing.noun}\b", text.lower()) for thing in scene.things)


def reader_score(scene: StorybookScene) -> Rows:
    """The reader's accuracy on a true scene: things with their sizes, place, traits of a hero."""
    seen = read_scene(scene.render())
    wanted, found = (Counter((t.noun, t.size) for t in each.things) for each in (scene, seen))
    both = wanted & found
    for name, things in (("found", wanted), ("true", found)):
        for thing, number in things.items():
            yield from ((f"reader, things {name}", float(i < both[thing])) for i in range(number))
    yield "reader, place", float(scene.setting.place == seen.setting.place)
    yield "reader, time", float(scene.setting.time == seen.setting.time)
    yield "reader, weather", float(scene.setting.weather == seen.setting.weather)
    if scene.hero:
        for trait, is_same in match_hero(scene.hero, seen).items():
            yield f"reader, hero's {trait}", float(is_same)


SCORES: dict[str, Score] = {
    "text_to_image": _request,
    "free_request": _request,
    "caption": _caption,
    "detail_question": _detail_question,
    "grounding": _grounding,
    "change": _change,
    "story": _story,
    "tale": _story,
}

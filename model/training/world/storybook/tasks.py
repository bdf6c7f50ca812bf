"""The tasks of the storybook world as examples: a user's content, and the answer to learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from model.training.world.example import Example, Part
from model.training.world.storybook.language import abilities, changes
from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.language.requests import (
    ARRANGED,
    HELD_OUT,
    TRAINED,
    RequestFamily,
    request,
)
from model.training.world.storybook.language.seeing import captions, grounding, questions
from model.training.world.storybook.language.stories import (
    StorybookStory,
    introduction,
    sample_story,
)
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.scene import Size, StorybookScene
from model.training.world.storybook.telling.composition import at_sides, in_a_row
from model.training.world.storybook.telling.group import groups
from model.training.world.storybook.telling.image import StorybookImage, image_of
from model.training.world.words import ORDINALS

_HERO_SHARE = 0.35
_NO_PLACE = 0.1
_PARTLY = 0.6  # Of heroes in requests: those of which not all is told.
_USUAL_PLACE = "meadow"  # Where things are drawn if no place is named.
NUM_IMAGES = (1, 1, 2, 2, 3)  # Of which a question is asked.
_NAMELESS = 0.3  # Of wishes for stories.
_NAMED = 0.25  # Of heroes to draw anew.
_BOXES = 0.5  # Of what else is asked about an image.
_RARE_SIZES: tuple[Size, ...] = ("small", "big")


def sample_scene(rng: random.Random) -> StorybookScene:
    """A random scene of one to four things, some of them with a hero in place of one."""
    hero = Hero.sample(rng) if rng.random() < _HERO_SHARE else None
    return StorybookScene.sample(rng, 3 if hero else 4, hero)


def text_to_image(rng: random.Random, families: Mapping[str, RequestFamily] = TRAINED) -> Example:
    """A request in words, answered by an image."""
    return request_of(rng, sample_scene(rng), families)


def request_of(
    rng: random.Random, scene: StorybookScene, families: Mapping[str, RequestFamily] = TRAINED
) -> Example:
    """A request for the image of a given scene."""
    if scene.stand and rng.random() < _PARTLY:
        hero = scene.stand.hero.partly(rng)
        scene = replace(scene, stand=replace(scene.stand, hero=hero))
    has_place = rng.random() >= _NO_PLACE
    if not has_place:
        scene = replace(scene, setting=replace(scene.setting, place=_USUAL_PLACE))
    standing = at_sides(scene)
    asked = request(rng, standing, families, has_place)
    has_sides = asked.order is not None
    drawn = standing if has_sides else in_a_row(standing)
    image = StorybookImage(drawn, asked.has_place, has_sides, order=asked.order)
    return Example("text_to_image", (asked.text,), (image,))


def arranged_request(rng: random.Random) -> Example:
    """A request that says what stands on which side, in any order: the hardest to read."""
    return arranged_of(rng, sample_scene(rng))


def arranged_of(rng: random.Random, scene: StorybookScene) -> Example:
    """A request for the image of a given scene that says what stands on which side."""
    return replace(request_of(rng, scene, ARRANGED), task="arranged_request")


def sized_request(rng: random.Random) -> Example:
    """A request for small and big things, which others seldom name."""
    return sized_of(rng, sample_scene(rng))


def sized_of(rng: random.Random, scene: StorybookScene) -> Example:
    """A request for the image of a given scene, all single things of which are small or big."""
    single = {group.things[0] for group in groups(scene) if group.number == 1}
    things = tuple(
        replace(thing, size=rng.choice(_RARE_SIZES)) if thing in single else thing
        for thing in scene.things
    )
    return replace(request_of(rng, replace(scene, things=things)), task="sized_request")


def free_request(rng: random.Random) -> Example:
    """A request of a family that is never trained on."""
    return replace(text_to_image(rng, HELD_OUT), task="free_request")


def caption(rng: random.Random) -> Example:
    """An image, answered by its description."""
    return caption_of(rng, sample_scene(rng))


def caption_of(rng: random.Random, scene: StorybookScene) -> Example:
    """The image of a given scene, answered by its description."""
    prompt = _beside(rng, [StorybookImage(scene)], captions.ask(rng))
    return Example("caption", prompt, (captions.describe(scene),))


def detail_question(rng: random.Random) -> Example:
    """Some images and a question about a detail of one of them."""
    return questions_about(rng, [sample_scene(rng) for _ in range(rng.choice(NUM_IMAGES))], 1)


def questions_about(rng: random.Random, scenes: Sequence[StorybookScene], number: int) -> Example:
    """Up to `number` different questions, one after the other, each about a detail of a scene."""
    pairs = dict(_question_about_one(rng, scenes) for _ in range(number))
    (question, answer), *further = pairs.items()
    images = [StorybookImage(scene) for scene in scenes]
    return Example("detail_question", _beside(rng, images, question), (answer,), tuple(further))


def _question_about_one(rng: random.Random, scenes: Sequence[StorybookScene]) -> tuple[str, str]:
    """A question about one of some scenes, which it names if there are several."""
    position = rng.randrange(len(scenes))
    ordinal = ORDINALS[position] if len(scenes) > 1 else None
    return questions.ask(rng, scenes[position], ordinal)


def grounding_question(rng: random.Random) -> Example:
    """A referring expression, answered by a box in hundredths of the image."""
    return grounding_in(rng, StorybookScene.sample(rng, max_things=3))


def grounding_in(rng: random.Random, scene: StorybookScene) -> Example:
    """An expression that refers to one thing of a given scene, answered by its box."""
    question, answer = grounding.ask(rng, scene)
    return Example("grounding", _beside(rng, [StorybookImage(scene)], question), (answer,))


def with_more_asked(
    rng: random.Random, example: Example, scene: StorybookScene, number: int
) -> Example:
    """An example about one scene, followed by up to `number` requests with other answers.

    They ask for boxes and details; after a description, which says all details, for boxes alone.
    """
    by_answer = {str(example.answer[0]): ""}
    for _ in range(number):
        is_box = example.task == "caption" or rng.random() < _BOXES
        ask = grounding.ask if is_box else questions.ask
        question, answer = ask(rng, scene)
        by_answer.setdefault(answer, question)
    further = tuple((question, answer) for answer, question in by_answer.items() if question)
    return replace(example, further=further)


def change(rng: random.Random) -> Example:
    """An image with a hero and a wish, answered by the same hero elsewhere or at another time."""
    hero = Hero.sample(rng)
    before = StorybookScene.sample(rng, 1, hero)
    return change_of(rng, before)


def change_of(rng: random.Random, before: StorybookScene) -> Example:
    """The hero of a given scene, drawn anew."""
    assert before.hero is not None
    after = in_a_row(StorybookScene.sample(rng, 1, before.hero), hero_first=True)
    portrait, image = StorybookImage(before), StorybookImage(after, tells_look=False)
    if rng.random() < _NAMED:
        wish = changes.ask(rng, after, before.hero.name)
        prompt: tuple[Part, ...] = (introduction(rng, before.hero), portrait, wish)
    else:
        prompt = _beside(rng, [portrait], changes.ask(rng, after))
    return Example("change", prompt, (image,))


def change_in(rng: random.Random, told: StorybookStory) -> Example:
    """The hero of a given story's portrait, drawn anew."""
    return change_of(rng, told.portrait)


def ability(rng: random.Random) -> Example:
    """A question about drawing or seeing, answered in words."""
    question, answer = abilities.talk(rng)
    return Example("ability", (question,), (answer,))


def story(rng: random.Random) -> Example:
    """A hero's image and a wish in any order, answered by an illustrated story."""
    return story_of(rng, sample_story(rng))


def story_of(rng: random.Random, told: StorybookStory) -> Example:
    """A given story as an example."""
    return Example("story", _story_prompt(rng, told), _pages_of(told))


def _pages_of(told: StorybookStory) -> tuple[Part, ...]:
    """Text and image of each page, and the last words."""
    answer: list[Part] = []
    for page in told.pages:
        answer += [page.text, StorybookImage(page.scene, tells_look=False)]
    return (*answer, told.closing)


def tale(rng: random.Random) -> Example:
    """A wish without an image, answered by a story whose first image introduces its hero."""
    return tale_of(rng, sample_story(rng))


def tale_of(rng: random.Random, told: StorybookStory) -> Example:
    """A given story as an example that shows no portrait."""
    return Example("tale", (_tale_prompt(rng, told),), _pages_of(told))


def _tale_prompt(rng: random.Random, told: StorybookStory) -> str:
    """A wish that says of which species the hero is, with or without the name."""
    hero = told.portrait.hero
    assert hero is not None
    nameless = told.wish_about(phrases.article(hero.species))
    if nameless and rng.random() < _NAMELESS:
        return nameless
    words = [told.wish_sentence, told.about_hero(rng)]
    if rng.random() < 0.3:
        words.reverse()
    return " ".join(words)


def _story_prompt(rng: random.Random, told: StorybookStory) -> tuple[Part, ...]:
    """Introduction, portrait and wish in one of the orders that people use."""
    portrait = StorybookImage(told.portrait)
    assert told.portrait.hero is not None
    species = told.portrait.hero.species
    nameless = told.wish_about(
        rng.choice((f"the {species}", f"this {species}", "it", "him", "her"))
    )
    if nameless and rng.random() < _NAMELESS:
        return (nameless, portrait) if rng.random() < 0.25 else (portrait, nameless)
    both = f"{told.introduction} {told.wish}"
    orders: tuple[tuple[Part, ...], ...] = (
        (told.introduction, portrait, told.wish),
        (told.introduction, portrait, told.wish),
        (portrait, both),
        (both, portrait),
        (f"{told.wish_sentence} {told.introduction}", portrait),
    )
    return rng.choice(orders)


def story_opening(rng: random.Random) -> Example:
    """A hero's image and a wish, answered by a story up to its first image."""
    return story_opening_of(rng, sample_story(rng))


def story_opening_of(rng: random.Random, told: StorybookStory) -> Example:
    """A given story up to its first image."""
    whole = story_of(rng, told)
    return replace(whole, task="story_opening", answer=whole.answer[:2], unfinished=True)


def in_words(example: Example) -> Example:
    """The same with a description in place of each image of the prompt."""
    prompt = tuple(
        part if isinstance(part, str) else captions.describe(image_of(part).scene)
        for part in example.prompt
    )
    return replace(example, prompt=prompt, unfinished=not isinstance(example.answer[-1], str))


def _beside(rng: random.Random, images: Sequence[StorybookImage], words: str) -> tuple[Part, ...]:
    """Images and words, the words mostly last, sometimes first."""
    return (words, *images) if rng.random() < 0.25 else (*images, words)


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "text_to_image": text_to_image,
    "arranged_request": arranged_request,
    "sized_request": sized_request,
    "free_request": free_request,
    "caption": caption,
    "detail_question": detail_question,
    "grounding": grounding_question,
    "change": change,
    "story": story,
    "story_opening": story_opening,
    "tale": tale,
    "ability": ability,
}

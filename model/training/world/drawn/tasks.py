"""The six tuned tasks as examples: a user's content, and the answer to learn.

Text-to-image, captioning, questions about details, grounding, images from label maps, stories;
and openings of stories.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawn.language import phrases as language
from model.training.world.drawn.language.story import StoryPlan, draw_story
from model.training.world.drawn.painting.character import Character
from model.training.world.drawn.painting.scene import BASE_SIZE, LABELS, SLOTS, Scene
from model.training.world.example import Example, Part
from model.training.world.words import ORDINALS


@dataclass(frozen=True)
class SceneImage:
    """An image of an example: a scene, or its label map."""

    scene: Scene
    as_label_map: bool = False

    def render(self, size: int = BASE_SIZE) -> Image.Image:
        """The pixels, RGB."""
        if not self.as_label_map:
            return self.scene.render(size)
        return Image.fromarray(LABEL_COLOURS[self.scene.label_map(size)])

    def foreground(self, size: int = BASE_SIZE) -> NDArray[np.bool_]:
        """Where things and the hero are, [size, size]."""
        return self.scene.foreground(size)


def _label_colours() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Colours of the label map, far apart: hues by the golden angle, two levels of brightness."""
    import colorsys

    rows = [
        colorsys.hsv_to_rgb(
            index * 0.618 % 1, 1.0 if index % 2 else 0.6, 0.95 if index % 3 else 0.6
        )
        for index in range(len(LABELS))
    ]
    return (np.array(rows) * 255).astype(np.uint8)


LABEL_COLOURS = _label_colours()


def text_to_image(rng: random.Random, object_set: str = "drawn") -> Example:
    """A description, answered by an image."""
    return text_to_image_of(rng, Scene.sample(rng, object_set, max_things=2))


def text_to_image_of(rng: random.Random, scene: Scene) -> Example:
    """A given scene's description, answered by its image."""
    verb = rng.choice(("Draw", "Paint", "Show me"))
    return Example("text_to_image", (f"{verb} {language.describe(scene)}.",), (SceneImage(scene),))


def caption(rng: random.Random, object_set: str = "drawn") -> Example:
    """An image, answered by its description."""
    return caption_of(rng, scene_perhaps_with_hero(rng, object_set))


def caption_of(rng: random.Random, scene: Scene) -> Example:
    """A given scene's image, answered by its description."""
    question = rng.choice(("What is in the picture?", "Describe the picture."))
    return Example(
        "caption", (SceneImage(scene), question), (language.sentence(language.describe(scene)),)
    )


def detail_question(rng: random.Random, object_set: str = "drawn", num_images: int = 0) -> Example:
    """Some images and a question about a detail of one of them."""
    number = num_images or rng.choice((1, 2, 3))
    scenes = [scene_perhaps_with_hero(rng, object_set) for _ in range(number)]
    return questions_about(rng, scenes, 1)


def questions_about(rng: random.Random, scenes: Sequence[Scene], number: int) -> Example:
    """Up to `number` different questions, one after the other, each about a detail of a scene."""
    pairs = dict(_question_about_one(rng, scenes) for _ in range(number))
    (question, answer), *further = pairs.items()
    return Example(
        "detail_question", (*map(SceneImage, scenes), question), (answer,), tuple(further)
    )


def _question_about_one(rng: random.Random, scenes: Sequence[Scene]) -> tuple[str, str]:
    """A question about one of some scenes, which it names if there are several, and the answer."""
    position = rng.randrange(len(scenes))
    question, answer = _question(rng, scenes[position])
    where = f" in the {ORDINALS[position]} picture" if len(scenes) > 1 else ""
    return f"{question}{where}?", language.sentence(answer)


def _question(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A question about one detail, without its question mark, and the answer.

    The answer first locates the thing, then describes it: one fact at a time.
    """
    choices: list[tuple[str, str]] = []
    for thing in scene.things:
        side = language.side(thing.slot)
        found = f"the {thing.kind} {side}"
        if thing.colour:
            choices.append((f"What colour is the {thing.kind}", f"{found} is {thing.colour}"))
        choices.append((f"How big is the {thing.kind}", f"{found} is {thing.size}"))
        choices.append((f"Where is the {thing.kind}", f"the {thing.kind} is {side}"))
        choices.append((f"What is {side}", f"a {thing.kind}"))
    if scene.hero is not None:
        found = f"the hero {language.side(scene.hero_slot)}"
        choices.append(("What colour is the hero", f"{found} is {scene.hero.colour}"))
        texture = f"{found} is {scene.hero.texture}"
        choices.append(("Is the hero plain, striped or dotted", texture))
    return rng.choice(choices)


def grounding(rng: random.Random, object_set: str = "drawn") -> Example:
    """A referring expression, answered by a box in hundredths of the image."""
    return grounding_in(rng, Scene.sample(rng, object_set))


def grounding_in(rng: random.Random, scene: Scene) -> Example:
    """An expression that refers to a thing of a given scene, answered by its box."""
    thing = rng.choice(scene.things)
    numbers = " ".join(str(round(99 * edge)) for edge in scene.box(thing.slot))
    what = f"{thing.colour or ''} {thing.kind}".strip()
    answer = f"The {what} is {language.side(thing.slot)}, box {numbers}."
    return Example("grounding", (SceneImage(scene), f"Give the box of the {what}."), (answer,))


def segmentation_to_image(rng: random.Random, object_set: str = "drawn") -> Example:
    """A label map and the words that it lacks, answered by the image."""
    return segmentation_to_image_of(rng, Scene.sample(rng, object_set, max_things=2))


def segmentation_to_image_of(rng: random.Random, scene: Scene) -> Example:
    """A given scene's label map and the words that it lacks, answered by its image."""
    words = f"Paint this map: {language.describe(scene)}."
    return Example(
        "segmentation_to_image", (SceneImage(scene, as_label_map=True), words), (SceneImage(scene),)
    )


def story(rng: random.Random, object_set: str = "drawn") -> Example:
    """A hero's image and a wish, answered by an illustrated story."""
    return story_example(draw_story(rng, object_set))


def story_example(told: StoryPlan) -> Example:
    """A story as an example."""
    answer: list[Part] = []
    for page in told.pages:
        answer += [page.text, SceneImage(page.scene)]
    prompt = (told.introduction, SceneImage(told.portrait), told.wish)
    return Example("story", prompt, (*answer, told.ending))


def story_opening(rng: random.Random, object_set: str = "drawn") -> Example:
    """A hero's image and a wish, answered by a story up to its first image."""
    return opening_of(story(rng, object_set))


def opening_of(told: Example) -> Example:
    """A story up to its first image: short, and mostly determined by the wish."""
    return replace(told, task="story_opening", answer=told.answer[:2], unfinished=True)


def in_words(example: Example) -> Example:
    """The same with a description in place of each image of the prompt.

    No image is left to read: a last one is only requested. A description holds the same facts as
    the image and costs little to read.
    """
    prompt = tuple(
        language.sentence(language.describe(part.scene)) if isinstance(part, SceneImage) else part
        for part in example.prompt
    )
    return replace(example, prompt=prompt, unfinished=not isinstance(example.answer[-1], str))


def scenes_of(example: Example) -> tuple[Scene, ...]:
    """The scenes of an example's images, in reading order."""
    return tuple(image.scene for image in example.images if isinstance(image, SceneImage))


def any_scene(rng: random.Random, object_set: str) -> Scene:
    """A scene with things, a hero, or both."""
    scene = Scene.sample(rng, object_set)
    if rng.random() < 0.7:
        slot = rng.choice(tuple(SLOTS))
        things = tuple(thing for thing in scene.things if thing.slot != slot)
        scene = replace(scene, things=things, hero=Character.sample(rng), hero_slot=slot)
    return scene


def scene_perhaps_with_hero(rng: random.Random, object_set: str) -> Scene:
    """A scene of up to three things; where a slot is free, often with a hero."""
    scene = Scene.sample(rng, object_set)
    free = [slot for slot in SLOTS if slot not in {thing.slot for thing in scene.things}]
    if not free or rng.random() < 0.4:
        return scene
    return replace(scene, hero=Character.sample(rng), hero_slot=rng.choice(free))


TASKS: dict[str, Callable[[random.Random, str], Example]] = {
    "text_to_image": text_to_image,
    "caption": caption,
    "detail_question": detail_question,
    "grounding": grounding,
    "segmentation_to_image": segmentation_to_image,
    "story": story,
    "story_opening": story_opening,
}

"""The storybook world behind the interface, and stocks of its images."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from model.training.world.drawable import Box, Drawable
from model.training.world.example import Example, Rows, Score
from model.training.world.facts import Facts
from model.training.world.storybook import tasks
from model.training.world.storybook.assets import packages
from model.training.world.storybook.facts import (
    PART_VALUES,
    SEEN,
    TOLD,
    WHOLE_VALUES,
    parts_of,
    setting_facts,
)
from model.training.world.storybook.language.stories import StorybookStory, sample_story
from model.training.world.storybook.painting.scene import StorybookScene
from model.training.world.storybook.scores import SCORES, reader_score
from model.training.world.storybook.tasks import TASKS
from model.training.world.storybook.telling.image import image_of

_MAX_QUESTIONS = 6
_IMAGES_OF_A_STORY = 4
_OF_ONE_SCENE: dict[str, Callable[[random.Random, StorybookScene], Example]] = {
    "caption": tasks.caption_of,
    "grounding": tasks.grounding_in,
}
_REQUESTS: dict[str, Callable[[random.Random, StorybookScene], Example]] = {
    "text_to_image": tasks.request_of,
    "arranged_request": tasks.arranged_of,
    "sized_request": tasks.sized_of,
}
_OF_ONE_STORY: dict[str, Callable[[random.Random, StorybookStory], Example]] = {
    "story": tasks.story_of,
    "story_opening": tasks.story_opening_of,
    "tale": tasks.tale_of,
    "change": tasks.change_in,
}


@dataclass(frozen=True)
class StorybookStock:
    """Scenes for any number of examples, and stories; requests and wishes are worded anew."""

    scenes: tuple[StorybookScene, ...]
    stories: tuple[StorybookStory, ...]

    @classmethod
    def of_images(cls, name: str, number: int) -> Self:
        """About that many images, half of them in stories."""
        rng = random.Random(f"stock/{name}")
        half = number // 2
        scenes = tuple(tasks.sample_scene(rng) for _ in range(half))
        stories = tuple(sample_story(rng) for _ in range(half // _IMAGES_OF_A_STORY))
        return cls(scenes, stories)

    def example(self, task: str, rng: random.Random) -> Example:
        """An example of a task of the world."""
        if task == "ability":
            return tasks.ability(rng)
        if task in _OF_ONE_STORY:
            return _OF_ONE_STORY[task](rng, rng.choice(self.stories))
        if task in _REQUESTS:
            return _REQUESTS[task](rng, rng.choice(self.scenes))
        # Of an image several things are asked at once: reading it takes longer.
        if task == "detail_question":
            scenes = rng.sample(self.scenes, rng.choice(tasks.NUM_IMAGES))
            return tasks.questions_about(rng, scenes, rng.randint(1, _MAX_QUESTIONS))
        scene = rng.choice(self.scenes)
        example = _OF_ONE_SCENE[task](rng, scene)
        return tasks.with_more_asked(rng, example, scene, _MAX_QUESTIONS)


@dataclass(frozen=True)
class StorybookWorld:
    """Things and heroes at photographed places."""

    tasks: ClassVar[tuple[str, ...]] = tuple(TASKS)
    seen: ClassVar[Facts] = SEEN
    told: ClassVar[Facts] = TOLD
    part_values: ClassVar[Mapping[str, tuple[str, ...]]] = PART_VALUES
    whole_values: ClassVar[Mapping[str, tuple[str, ...]]] = WHOLE_VALUES

    def check(self) -> None:
        packages.fetch()

    def example(self, task: str, rng: random.Random) -> Example:
        return TASKS[task](rng)

    def scene(self, rng: random.Random) -> StorybookScene:
        return tasks.sample_scene(rng)

    @property
    def scores(self) -> dict[str, Score]:
        return SCORES

    def reader_score(self, rng: random.Random) -> Rows:
        return reader_score(self.scene(rng))

    def parts(self, image: Drawable) -> list[tuple[dict[str, str], Box]]:
        scene = image_of(image).scene
        boxes = scene.boxes()
        owned = zip(scene.entries, parts_of(scene), strict=True)
        return [(facts, boxes[entry]) for entry, facts in owned]

    def whole_facts(self, image: Drawable) -> dict[str, str]:
        return setting_facts(image_of(image).scene.setting)

    def in_words(self, example: Example) -> Example:
        return tasks.in_words(example)

    def stock(self, name: str, num_images: int) -> StorybookStock:
        return StorybookStock.of_images(name, num_images)

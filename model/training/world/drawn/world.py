"""The drawn world behind the interface, and stocks of its images.

A frozen encoder reads each image of a stock once, however many examples use it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from model.config.schema import ConfigError
from model.training.world.drawn import tasks
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.drawn.painting.objects import FONT_PATH, object_sets
from model.training.world.drawn.painting.scene import Scene
from model.training.world.drawn.scores import SCORES, ScoreOfSets, reader_score
from model.training.world.drawn.tasks import TASKS
from model.training.world.example import Example, Rows, Score
from model.training.world.facts import Facts

_NUM_IMAGES = (1, 2, 2, 3, 3)  # Questions about one of several images are harder.
_MAX_QUESTIONS = 8
_IMAGES_OF_A_STORY = 4  # The portrait and about three pages.
_OF_ONE_SCENE: dict[str, Callable[[random.Random, Scene], Example]] = {
    "text_to_image": tasks.text_to_image_of,
    "caption": tasks.caption_of,
    "grounding": tasks.grounding_in,
    "segmentation_to_image": tasks.segmentation_to_image_of,
}


@dataclass(frozen=True)
class Stock:
    """Scenes for any number of examples, and whole stories."""

    scenes: tuple[Scene, ...]
    stories: tuple[Example, ...]

    @classmethod
    def sample(cls, name: str, object_set: str, num_scenes: int, num_stories: int) -> Self:
        """The stock of that name."""
        rng = random.Random(f"stock/{name}")
        scenes = (tasks.scene_perhaps_with_hero(rng, object_set) for _ in range(num_scenes))
        stories = (tasks.story(rng, object_set) for _ in range(num_stories))
        return cls(tuple(scenes), tuple(stories))

    @classmethod
    def of_images(cls, name: str, object_set: str, number: int) -> Self:
        """About that many images, half of them in stories."""
        half = number // 2
        return cls.sample(name, object_set, half, half // _IMAGES_OF_A_STORY)

    def example(self, task: str, rng: random.Random) -> Example:
        """An example of a task of the world."""
        if task == "story":
            return rng.choice(self.stories)
        if task == "story_opening":
            return tasks.opening_of(rng.choice(self.stories))
        if task == "detail_question":  # Several at once: reading images takes longer.
            return self.questions(rng, rng.randint(1, _MAX_QUESTIONS))
        return _OF_ONE_SCENE[task](rng, rng.choice(self.scenes))

    def questions(self, rng: random.Random, number: int) -> Example:
        """Up to `number` questions about details of the same few images."""
        scenes = rng.sample(self.scenes, rng.choice(_NUM_IMAGES))
        return tasks.questions_about(rng, scenes, number)


@dataclass(frozen=True)
class DrawnWorld:
    """The world of some sets of objects: a name of `OBJECT_SETS`, or several joined by "+"."""

    objects: str = "drawn"
    tasks: ClassVar[tuple[str, ...]] = tuple(TASKS)
    seen: ClassVar[Facts] = DRAWN_FACTS
    told: ClassVar[Facts] = DRAWN_FACTS

    def example(self, task: str, rng: random.Random) -> Example:
        return TASKS[task](rng, self.objects)

    def check(self) -> None:
        lacking = [each.name for each in object_sets(self.objects) if not each.available()]
        if lacking:
            raise ConfigError(f"images of {', '.join(lacking)} need a font: {FONT_PATH}")

    def scene(self, rng: random.Random) -> Scene:
        return tasks.any_scene(rng, self.objects)

    @property
    def scores(self) -> dict[str, Score]:
        return {task: self._bound(score) for task, score in SCORES.items()}

    def _bound(self, score: ScoreOfSets) -> Score:
        return lambda example, answer: score(example, answer, self.objects)

    def reader_score(self, rng: random.Random) -> Rows:
        return reader_score(self.scene(rng), self.objects)

    def in_words(self, example: Example) -> Example:
        return tasks.in_words(example)

    def stock(self, name: str, num_images: int) -> Stock:
        return Stock.of_images(name, self.objects, num_images)

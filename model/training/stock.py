"""A stock of pictures to make examples of: a frozen encoder then sees each picture once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from model.training.world import examples
from model.training.world.examples import Example
from model.training.world.scene import Scene

_NUM_IMAGES = (1, 2, 2, 3, 3)  # One of several pictures is harder to ask about than a single one.
_MAX_QUESTIONS = 8
_PICTURES_OF_A_STORY = 4  # The portrait and about three pages.
_OF_ONE_SCENE: dict[str, Callable[[random.Random, Scene], Example]] = {
    "text_to_image": examples.text_to_image_of,
    "caption": examples.caption_of,
    "grounding": examples.grounding_in,
    "segmentation_to_image": examples.segmentation_to_image_of,
}


@dataclass(frozen=True)
class Stock:
    """Scenes to ask about in any number of ways, and whole stories."""

    scenes: tuple[Scene, ...]
    stories: tuple[Example, ...]

    @classmethod
    def draw_lots(cls, name: str, object_set: str, num_scenes: int, num_stories: int) -> Self:
        """The stock of that name."""
        rng = random.Random(f"stock/{name}")
        scenes = (examples.scene_perhaps_with_hero(rng, object_set) for _ in range(num_scenes))
        stories = (examples.story(rng, object_set) for _ in range(num_stories))
        return cls(tuple(scenes), tuple(stories))

    @classmethod
    def of_pictures(cls, name: str, object_set: str, number: int) -> Self:
        """About that many pictures, half of them in stories."""
        half = number // 2
        return cls.draw_lots(name, object_set, half, half // _PICTURES_OF_A_STORY)

    def example(self, task: str, rng: random.Random) -> Example:
        """An example of a task of the world."""
        if task == "story":
            return rng.choice(self.stories)
        if task == "story_opening":
            return examples.opening_of(rng.choice(self.stories))
        if task == "detail_question":  # Several at once: pictures take longer to read.
            return self.questions(rng, rng.randint(1, _MAX_QUESTIONS))
        return _OF_ONE_SCENE[task](rng, rng.choice(self.scenes))

    def questions(self, rng: random.Random, number: int) -> Example:
        """Up to so many questions about details of the same few pictures."""
        scenes = rng.sample(self.scenes, rng.choice(_NUM_IMAGES))
        return examples.questions_about(rng, scenes, number)


class StorySource:
    """All stories of a stock, in their order."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock

    def draw(self, step: int, number: int) -> list[Example]:
        """The stories of a step; none behind the last."""
        return list(self.stock.stories[step * number : (step + 1) * number])

"""A fixed stock of pictures, so that the frozen encoder sees each of them once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Self

from model.training.world.examples import (
    Example,
    caption_of,
    question_about,
    scene_perhaps_with_hero,
    story,
)
from model.training.world.scene import Scene

_MAX_IMAGES = 3
_TASKS = {"question": 0.6, "caption": 0.2, "story": 0.2}


@dataclass(frozen=True)
class Pool:
    """Scenes to ask about, and stories."""

    scenes: tuple[Scene, ...]
    stories: tuple[Example, ...]

    @classmethod
    def draw_lots(cls, name: str, num_scenes: int, num_stories: int) -> Self:
        """The pool of that name."""
        rng = random.Random(f"ablation/{name}")
        scenes = tuple(scene_perhaps_with_hero(rng, "drawn") for _ in range(num_scenes))
        return cls(scenes, tuple(story(rng) for _ in range(num_stories)))

    def question(self, rng: random.Random) -> Example:
        """A question about a detail of one of up to three pictures."""
        return question_about(rng, rng.sample(self.scenes, rng.randint(1, _MAX_IMAGES)))


class MixedSource:
    """Questions, captions and stories of a pool.

    A step has one task, for their lengths differ; of stories it takes a quarter of the number.
    """

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool, self.seed = pool, seed

    def draw(self, step: int, number: int) -> list[Example]:
        """The examples of a step."""
        rng = random.Random(f"ablation/{self.seed}/{step}")
        task = rng.choices(list(_TASKS), list(_TASKS.values()))[0]
        if task == "question":
            return [self.pool.question(rng) for _ in range(number)]
        if task == "caption":
            return [caption_of(rng, rng.choice(self.pool.scenes)) for _ in range(number)]
        return [rng.choice(self.pool.stories) for _ in range(number // 4)]


class StorySource:
    """All stories of a pool, in their order."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def draw(self, step: int, number: int) -> list[Example]:
        """The stories of a step; none behind the last."""
        return list(self.pool.stories[step * number : (step + 1) * number])

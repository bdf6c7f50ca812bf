"""Images of a batch are those of the offline engine."""

from __future__ import annotations

import random

import numpy as np

from model.mm_interleaved import MMInterleaved
from model.offline.story import OfflineEngine, OfflineOptions, Story
from model.processor import Processor
from model.segments import ImageSegment, TextSegment
from model.training.evaluation.images import ImageGenerator, ImageSettings, Unfinished
from model.training.world.drawn.tasks import TASKS
from model.training.world.example import Example

QUICK = ImageSettings(num_inference_steps=2, batch_size=2)


def _story(example: Example, processor: Processor) -> Story:
    segments = [
        TextSegment(part) if isinstance(part, str) else ImageSegment(part.render(), "")
        for part in example.prompt
    ]
    return Story.from_context(segments, processor).asking_for_image(processor)


def test_images_of_a_batch_are_the_offline_engines(
    model: MMInterleaved, processor: Processor
) -> None:
    stories = [_story(TASKS["story"](random.Random(n), "drawn"), processor) for n in (1, 2, 3)]
    todo = [Unfinished(s.input_ids, s.pixels_N3SS, len(s.pixels_N3SS) - 1, seed=5) for s in stories]
    drawn = ImageGenerator(model.eval(), QUICK).generate(todo)
    options = OfflineOptions(
        num_inference_steps=2, guidance_scale=3.0, scheduler="dpmsolver++", seed=5
    )
    engine = OfflineEngine(model, processor, options)
    for story, image in zip(stories, drawn, strict=True):
        alone = np.asarray(engine.generate_images(story).images[0], dtype=int)
        assert np.abs(np.asarray(image, dtype=int) - alone).max() <= 1

"""Stories say what their images show."""

from __future__ import annotations

import random

from model.training.world.drawn.language.story import draw_story


def test_stories_name_what_their_images_show_and_keep_the_hero() -> None:
    for seed in range(20):
        story = draw_story(random.Random(seed))
        assert story.pages
        for page in story.pages:
            assert page.scene.hero == story.portrait.hero
            thing = page.scene.things[0]
            assert f"{thing.size} {thing.colour} {thing.kind}" in page.text
        hero = story.portrait.hero
        assert hero is not None
        said = " ".join([story.introduction, story.wish, *(p.text for p in story.pages)])
        assert hero.texture not in said

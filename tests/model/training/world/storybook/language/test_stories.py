"""Stories follow their wish and mention what is drawn, except the hero's look."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.language import stories
from model.training.world.storybook.language.stories import sample_story
from model.training.world.storybook.painting.hero import COLOURS, TOKENS


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
def test_stories_mention_what_is_drawn() -> None:
    rng = random.Random(5)
    for _ in range(100):
        story = sample_story(rng)
        assert 1 <= len(story.pages) <= 5
        hero = story.portrait.hero
        assert hero is not None
        for page in story.pages:
            assert page.scene.hero == hero
            noun = page.scene.things[0].noun
            assert noun in page.text.lower().replace("mice", "mouse"), page.text
            words = page.text.lower().split()
            looks = (set(COLOURS) | set(TOKENS)) - {word for word in noun.split()}
            assert not looks & set(words), page.text


def test_the_first_word_of_a_page_says_whether_it_is_the_last() -> None:
    last_words = {sentence.split()[0].strip(",") for sentence in stories.LAST_PAGES}
    rng = random.Random(6)
    for _ in range(200):
        _, *pages = sample_story(rng).pages
        begun = [page.text.split()[0].strip(",") in last_words for page in pages]
        assert begun == [index == len(pages) - 1 for index in range(len(pages))]


def test_there_are_sixty_plot_pieces() -> None:
    pieces = stories.OPENINGS + stories.MIDDLES + stories.ENDINGS_OF_PLOTS
    assert len(set(pieces)) >= 60

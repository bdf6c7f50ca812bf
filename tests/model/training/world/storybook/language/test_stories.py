"""Stories follow their wish and mention what is drawn, except the hero's look."""

from __future__ import annotations

import random

import pytest

from model.training.world.storybook.language import stories
from model.training.world.storybook.language.stories import sample_story
from model.training.world.storybook.painting.hero import COLOURS, TOKENS
from model.training.world.words import NUMBERS


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


def test_a_wish_says_how_many_images_or_three_are_meant() -> None:
    words = {number: {f"{number}", NUMBERS[number]} for number in range(1, 6)}
    words[1].add("single")
    rng = random.Random(7)
    uncounted = {number: 0 for number in words}
    for _ in range(400):
        story = sample_story(rng)
        said = set(story.wish.lower().replace(",", " ").split())
        counts = {number for number, names in words.items() if said & names}
        assert counts <= {len(story.pages)}
        uncounted[len(story.pages)] += not counts
    assert uncounted[3] > 20
    assert sum(uncounted.values()) - uncounted[3] < 10  # Those with a slip in the number.


def test_a_wish_may_be_about_somebody_without_a_name() -> None:
    rng = random.Random(8)
    for _ in range(50):
        story = sample_story(rng)
        assert story.portrait.hero is not None
        nameless = story.wish_about("an owl")
        assert nameless is None or ("an owl" in nameless)
        assert nameless is None or story.portrait.hero.name not in nameless

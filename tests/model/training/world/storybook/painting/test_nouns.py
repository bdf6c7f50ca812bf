from __future__ import annotations

from model.training.world.storybook.language.grammar import phrases
from model.training.world.storybook.painting.hero import SPECIES, TOKENS
from model.training.world.storybook.painting.nouns import HEIGHTS, NOUNS


def test_no_word_means_two_nouns() -> None:
    words = [*NOUNS, *(word for noun in NOUNS.values() for word in noun.synonyms)]
    assert len(words) == len(set(words))
    assert len(NOUNS) >= 150


def test_no_plural_means_two_nouns() -> None:
    plurals = [phrases.plural(noun) for noun in NOUNS]
    assert len(plurals) == len(set(plurals))
    words = {*NOUNS, *(word for noun in NOUNS.values() for word in noun.synonyms)}
    same = {"sheep", "fish", "deer", "grapes", "jeans"}
    assert words & set(plurals) == same | {"dice"}  # People say dice for one, too.


def test_no_picture_shows_two_nouns() -> None:
    codes = [noun.code for noun in NOUNS.values()]
    assert len(codes) == len(set(codes))
    assert all(int(code, 16) > 0x2000 and code == code.lower() for code in codes)


def test_heroes_and_what_they_wear_look_like_the_things_of_their_name() -> None:
    for name, species in SPECIES.items():
        assert NOUNS[name].code == species.code
    for name in TOKENS.keys() & NOUNS.keys():
        assert NOUNS[name].code == TOKENS[name].code


def test_statures_grow_and_four_of_the_smallest_have_room() -> None:
    heights = [HEIGHTS[stature] for stature in ("tiny", "little", "middle", "large")]
    assert heights == sorted(set(heights)) and 4 * heights[0] < 1
    assert {noun.stature for noun in NOUNS.values()} == set(HEIGHTS)

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from model.training.world.example import Example, GeneratedAnswer
from model.training.world.storybook import scores
from model.training.world.storybook.language.seeing.captions import describe
from model.training.world.storybook.painting.hero import Hero
from model.training.world.storybook.painting.places import Setting
from model.training.world.storybook.painting.scene import Stand, StorybookScene, StorybookThing
from model.training.world.storybook.scores import SCORES, match_hero, match_request, reader_score
from model.training.world.storybook.telling.image import StorybookImage
from model.training.world.storybook.world import StorybookWorld

_WORLD = StorybookWorld()
_PIP = Hero("Pip", "frog", "blue", "striped", "top hat")
_CATS = tuple(StorybookThing("cat", "normal", x, 0.9) for x in (0.1, 0.25))
_OWL = StorybookThing("owl", "big", 0.9, 0.9)
_SCENE = StorybookScene(
    Setting("old town", 0, "evening", "rain"), (*_CATS, _OWL), Stand(_PIP, 0.55, 0.9)
)
_EMPTY = StorybookScene(Setting("meadow", 0, "day"))
Draw = Callable[[StorybookScene], Image.Image]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Makes pictures that are read as given scenes, without the reader's errors and pictures."""
    seen: list[tuple[Image.Image, StorybookScene]] = []

    def read(image: Image.Image) -> StorybookScene:
        return next(scene for picture, scene in seen if picture is image)

    def made(scene: StorybookScene) -> Image.Image:
        picture = Image.new("RGB", (1, 1))
        seen.append((picture, scene))
        return picture

    monkeypatch.setattr(scores, "read_scene", read)
    return made


def rows(
    task: str, example: Example, *parts: str | Image.Image, ended: bool = True
) -> dict[str, float]:
    return dict(SCORES[task](example, GeneratedAnswer(parts, ended)))


def test_every_trait_of_a_hero_is_compared() -> None:
    assert all(match_hero(_PIP, _SCENE).values())
    assert not any(match_hero(_PIP, _EMPTY).values())
    for trait, other in (
        ("species", "cat"), ("colour", "red"), ("pattern", "plain"), ("token", "bow"),
    ):  # fmt: skip
        seen = replace(_SCENE, stand=Stand(replace(_PIP, **{trait: other}), 0.2, 0.9))
        assert [name for name, same in match_hero(_PIP, seen).items() if not same] == [trait]
    renamed = replace(_SCENE, stand=Stand(replace(_PIP, name="hero"), 0.2, 0.9))
    assert all(match_hero(_PIP, renamed).values())


def test_a_request_is_compared_in_what_it_tells() -> None:
    full = match_request(StorybookImage(_SCENE), _SCENE)
    assert set(full) == {
        "thing cat", "thing owl", "place", "time", "weather", "species", "colour", "pattern",
        "token",
    }  # fmt: skip
    assert all(full.values())
    untold = match_request(StorybookImage(_SCENE, tells_place=False, tells_look=False), _SCENE)
    assert set(untold) == {"thing cat", "thing owl", "time", "weather"}


def test_as_many_things_as_asked_for_must_be_there() -> None:
    fewer = match_request(StorybookImage(_SCENE), replace(_SCENE, things=(_CATS[0], _OWL)))
    assert not fewer["thing cat"] and fewer["thing owl"]
    more = match_request(
        StorybookImage(replace(_SCENE, things=(_CATS[0],))), replace(_SCENE, things=_CATS)
    )
    assert more["thing cat"]


def test_a_request_is_right_by_its_things_and_place(draw: Draw) -> None:
    example = Example("text_to_image", ("draw",), (StorybookImage(_SCENE),))
    at_noon = replace(_SCENE, setting=Setting("old town", 0, "day"))
    told = rows("text_to_image", example, draw(at_noon))
    assert told["request right"] == 1 and told["request, time"] == told["request, weather"] == 0
    elsewhere = replace(_SCENE, setting=Setting("meadow", 0, "evening", "rain"))
    assert rows("text_to_image", example, draw(elsewhere))["request right"] == 0
    half = rows("text_to_image", example, draw(replace(_SCENE, things=_CATS)))
    assert half["request, things"] == 0.5 and half["request right"] == 0
    free = replace(example, task="free_request")
    assert rows("free_request", free, draw(_SCENE))["free-form request right"] == 1


def test_a_request_without_a_picture_is_wrong_in_everything() -> None:
    # Even in what an empty picture of the place would show.
    example = Example("text_to_image", ("draw",), (StorybookImage(_EMPTY),))
    assert set(rows("text_to_image", example, "Here it is.").values()) == {0.0}


def test_a_caption_is_scored_by_what_it_names() -> None:
    example = Example("caption", (StorybookImage(_SCENE), "what is this?"), ("",))
    assert rows("caption", example, describe(_SCENE)) == {"caption recall": 1.0}
    assert rows("caption", example, "Two cats on the left.") == {"caption recall": 1 / 5}
    # On the wrong side it is not named.
    assert rows("caption", example, "Two cats on the right.") == {"caption recall": 0.0}


def test_a_detail_counts_for_the_picture_in_question() -> None:
    image = StorybookImage(_SCENE)
    example = Example("detail_question", (image, image, "In the second image, who?"), ("A frog.",))
    assert rows("detail_question", example, " A frog. ") == {
        "detail question": 1.0, "detail question, second picture": 1.0,
    }  # fmt: skip
    alone = Example("detail_question", (image, "Who is second?"), ("A frog.",))
    assert rows("detail_question", alone, "a frog") == {
        "detail question": 0.0, "detail question, only picture": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "overlap"), [("box 00 00 50 99", 1.0), ("box 00 00 25 99", 0.5), ("there", 0.0)]
)
def test_a_box_is_scored_by_its_overlap(answer: str, overlap: float) -> None:
    example = Example("grounding", ("where?",), ("The owl is on the left, box 00 00 50 99.",))
    assert rows("grounding", example, answer) == {"grounding IoU": pytest.approx(overlap)}


def test_a_change_keeps_the_hero_and_does_as_asked(draw: Draw) -> None:
    wished = StorybookImage(_SCENE, tells_look=False)
    example = Example("change", (StorybookImage(_EMPTY), "put it there"), (wished,))
    other = replace(_SCENE, stand=Stand(replace(_PIP, colour="red"), 0.5, 0.9))
    told = rows("change", example, draw(other))
    assert (told["change, hero kept"], told["change, as asked"]) == (0, 1)
    told = rows("change", example, draw(replace(_SCENE, things=())))
    assert (told["change, hero kept"], told["change, as asked"]) == (1, 0)
    assert set(rows("change", example, "no").values()) == {0.0}


def story(num_pages: int) -> Example:
    portrait = StorybookImage(StorybookScene(_EMPTY.setting, (), Stand(_PIP, 0.5, 0.9)))
    pages = [part for _ in range(num_pages) for part in ("words", StorybookImage(_SCENE))]
    return Example("story", ("This is Pip.", portrait, "tell"), (*pages, "The end."))


@pytest.mark.parametrize(
    ("num_drawn", "ended", "right"), [(2, True, 1), (1, True, 0), (2, False, 0)]
)
def test_a_story_has_the_form_asked_for(
    draw: Draw, num_drawn: int, ended: bool, right: int
) -> None:
    parts = [part for _ in range(num_drawn) for part in ("An owl.", draw(_SCENE))]
    told = rows("story", story(2), *parts, ended=ended)
    assert told["story has the pictures asked for, and ends"] == right


def test_a_picture_is_compared_with_the_text_before_it(draw: Draw) -> None:
    owls, cats = replace(_SCENE, things=(_OWL,)), replace(_SCENE, things=_CATS)
    name = "story picture shows the thing of its text"

    def shown(*parts: str | Image.Image) -> list[float]:
        answer = GeneratedAnswer(parts, ended=True)
        return [value for what, value in SCORES["story"](story(2), answer) if what == name]

    assert shown("An owl.", draw(owls), "A cat.", draw(cats)) == [1, 1]
    assert shown("A cat.", draw(owls), "An owl.", draw(cats)) == [0, 0]
    # A picture without a text of its own is not compared, least of all with another's.
    assert shown(draw(cats), "An owl.", draw(owls)) == [1]
    assert shown("An owl.", draw(owls), draw(cats)) == [1]


def test_a_heros_traits_are_followed_from_picture_to_picture(draw: Draw) -> None:
    other = replace(_SCENE, stand=Stand(replace(_PIP, token="bow"), 0.5, 0.9))
    told = rows("story", story(2), "An owl.", draw(_SCENE), "An owl.", draw(other))
    assert told["story hero kept, picture 1"] == 1 and told["story hero kept, picture 2"] == 0
    assert told["story hero's token"] == 0 and told["story hero's colour"] == 1


def test_the_reader_is_scored_by_things_found_and_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorybookScene, "render", lambda scene: Image.new("RGB", (1, 1)))
    seen = replace(_SCENE, things=(_CATS[0], replace(_OWL, size="small")))
    monkeypatch.setattr(scores, "read_scene", lambda image: seen)
    values = list(reader_score(_SCENE))
    found = [value for name, value in values if name == "reader, things found"]
    true = [value for name, value in values if name == "reader, things true"]
    assert sorted(found) == [0, 0, 1] and sorted(true) == [0, 1]
    assert dict(values)["reader, hero's species"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("storybook_packages")
@pytest.mark.parametrize("task", _WORLD.scores)
def test_true_answers_score_one_and_no_answer_none(task: str) -> None:
    example = _WORLD.example(task, random.Random(3))
    parts = tuple(p if isinstance(p, str) else p.render() for p in example.answer)
    score = _WORLD.scores[task]
    rows = dict(score(example, GeneratedAnswer(parts, ended=True)))
    assert set(rows.values()) == {1.0}, rows
    nothing = dict(score(example, GeneratedAnswer((), ended=True)))
    assert not any(nothing.values()), nothing

"""Sources are mixed, and a resumed run draws the same."""

from __future__ import annotations

import pytest

from model.processor import Processor
from model.training.data.batches import tokenise
from model.training.data.mixture import Mixture
from model.training.world.drawn.tasks import TASKS
from model.training.world.drawn.world import DrawnWorld


def test_mixture_goes_on_where_a_killed_run_stopped(shards: str) -> None:
    weights = {"story": 1.0, f"shards:{shards}": 2.0}
    whole = Mixture(weights, DrawnWorld(), seed=3)
    wanted = [whole.draw(step, 3) for step in range(6)][-1]
    resumed = Mixture(weights, DrawnWorld(), seed=3).draw(5, 3)
    assert [e.task for e in resumed] == [e.task for e in wanted]
    assert [p for e in resumed for p in e.answer if isinstance(p, str)] == [
        p for e in wanted for p in e.answer if isinstance(p, str)
    ]


def test_unknown_source_is_refused() -> None:
    for name in ("poems", "words:poems"):
        with pytest.raises(ValueError, match="unknown sources"):
            Mixture({name: 1.0}, DrawnWorld())


def test_a_story_opening_is_a_story_broken_off_where_it_asks_for_an_image(
    processor: Processor,
) -> None:
    stories = Mixture({"story": 1.0}, DrawnWorld(), seed=2).draw(0, 1)
    openings = Mixture({"story_opening": 1.0}, DrawnWorld(), seed=2).draw(0, 1)
    (story,), (opening,) = ([tokenise(e, processor) for e in each] for each in (stories, openings))
    assert opening.ids == story.ids[: len(opening.ids)]
    assert opening.ids[-1] == processor.special.soi_token_id
    assert opening.ids.count(processor.special.soi_token_id) == 2
    assert opening.images == story.images[:1]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "story"])
def test_in_words_no_image_is_read_and_the_answer_is_the_same(
    task: str, processor: Processor
) -> None:
    (shown,), (told,) = (
        Mixture({name: 1.0}, DrawnWorld(), seed=2).draw(0, 1) for name in (task, f"words:{task}")
    )
    assert told.answer == shown.answer
    shown_texts = [part for part in shown.prompt if isinstance(part, str)]
    assert [part for part in told.prompt if part in shown_texts] == shown_texts
    assert len(told.prompt) == len(shown.prompt)
    assert not tokenise(told, processor).images

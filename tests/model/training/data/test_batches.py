"""Tokenised examples are the prompts of the server."""

from __future__ import annotations

import random

import pytest

from model.processor import Processor
from model.training.data.batches import collate, tokenise
from model.training.world.drawn.tasks import TASKS
from model.training.world.drawn.world import Stock

FINISHED = [task for task in TASKS if task != "story_opening"]


@pytest.mark.parametrize("task", FINISHED)
def test_only_answers_are_learned_in_instruction_tuning(task: str, processor: Processor) -> None:
    sequence = tokenise(TASKS[task](random.Random(4), "drawn"), processor)
    batch, labels_BL = collate([sequence], processor, learn_prompt=False)
    special = processor.special
    assert sequence.ids[0] == special.bos_token_id
    assert sequence.ids[-1] == special.eos_token_id
    assert len(batch.pixels_N3SS) == sequence.ids.count(special.soi_token_id)
    learned = labels_BL[0] != -100
    assert not learned[: sequence.prompt_length - 1].any()
    assert learned[-1]
    answer = sequence.ids[sequence.prompt_length :]
    assert int(learned.sum()) == sum(index != special.image_token_id for index in answer)


def test_a_last_image_that_nothing_follows_may_be_asked_for_only(processor: Processor) -> None:
    example = TASKS["segmentation_to_image"](random.Random(4), "drawn")
    whole, asking = (tokenise(example, processor, may_ask) for may_ask in (False, True))
    num_placeholders = len(processor.image_ids) - 1
    assert asking.ids == whole.ids[: -num_placeholders - 1]
    assert asking.ids[-1] == processor.special.soi_token_id
    assert asking.images == whole.images[:1]
    batch, _ = collate([asking, whole], processor, learn_prompt=True)
    assert batch.num_images_B.tolist() == [1, 2]
    assert len(batch.pixels_N3SS) == 3


def test_of_further_questions_only_the_answers_are_learned(processor: Processor) -> None:
    stock = Stock.sample("test", "drawn", 6, 1)
    example = stock.questions(random.Random(2), 5)
    assert len(example.further) > 1
    sequence = tokenise(example, processor)
    batch, labels_BL = collate([sequence], processor, learn_prompt=False)
    learned = [int(index) for index in labels_BL[0] if index != -100]
    answers = [str(example.answer[0]), *(answer for _, answer in example.further)]
    end = processor.special.eos_token_id
    assert learned == [i for text in answers for i in (*processor.encode_text(text), end)]
    for row in sequence.questions:
        assert processor.decode(sequence.ids[row.start : row.stop]).strip().endswith("?")


def test_an_answer_that_ends_in_words_asks_for_nothing(processor: Processor) -> None:
    example = TASKS["story"](random.Random(4), "drawn")
    assert tokenise(example, processor, may_ask=True) == tokenise(example, processor)


def test_text_before_the_first_image_can_be_left_out(processor: Processor) -> None:
    sequence = tokenise(TASKS["story"](random.Random(4), "drawn"), processor)
    first = sequence.ids.index(processor.special.soi_token_id)
    whole, rest = (
        collate([sequence], processor, learn_prompt=True, only_after_image=only)[1][0] != -100
        for only in (False, True)
    )
    assert whole[: first - 1].any()
    assert not rest[: first - 1].any()
    assert whole[first:].equal(rest[first:])

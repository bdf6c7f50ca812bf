"""Tokenised examples are the server's prompts; shards are read, mixed and resumed."""

from __future__ import annotations

import io
import json
import random
import tarfile
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from model.config.schema import ConfigError
from model.processor import Processor
from model.training.data import collate, tokenise
from model.training.mixture import Mixture
from model.training.recipe import Recipe
from model.training.shards import ShardReader
from model.training.stock import Stock
from model.training.world.examples import TASKS

RECIPE = Path(__file__).parents[3] / "deploy" / "train" / "tiny.toml"
FINISHED = [task for task in TASKS if task != "story_opening"]


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> str:
    members: dict[str, bytes] = {}
    for number in range(4):
        members |= {f"{number}.png": _png("red"), f"{number}.txt": f"caption {number}".encode()}
    document = {
        "text_list": ["one", "two"],
        "image_info": [{"image_name": "a.png", "matched_text_index": 1}],
    }
    members |= {"doc.json": json.dumps(document).encode(), "doc.a.png": _png("blue")}
    with tarfile.open(tmp_path / "shard0.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(tmp_path / "*.tar")


def test_shards_give_pairs_and_documents(shards: str) -> None:
    examples = list(ShardReader(shards, seed=1).epoch(0))
    assert sorted(example.task for example in examples) == ["interleaved"] + ["paired"] * 4
    document = next(example for example in examples if example.task == "interleaved")
    assert [isinstance(part, str) for part in document.answer] == [True, False, True]
    assert document.pictures[0].render(16).size == (16, 16)


def test_shards_are_shuffled_by_the_seed(shards: str) -> None:
    def texts(seed: int) -> list[object]:
        return [example.answer[0] for example in islice(ShardReader(shards, seed), 5)]

    assert texts(1) == texts(1)
    assert any(texts(1) != texts(seed) for seed in range(2, 6))


def test_mixture_goes_on_where_a_killed_run_stopped(shards: str) -> None:
    weights = {"story": 1.0, f"shards:{shards}": 2.0}
    whole = Mixture(weights, "drawn", seed=3)
    wanted = [whole.draw(step, 3) for step in range(6)][-1]
    resumed = Mixture(weights, "drawn", seed=3).draw(5, 3)
    assert [e.task for e in resumed] == [e.task for e in wanted]
    assert [p for e in resumed for p in e.answer if isinstance(p, str)] == [
        p for e in wanted for p in e.answer if isinstance(p, str)
    ]


def test_unknown_source_is_refused() -> None:
    for name in ("poems", "words:poems"):
        with pytest.raises(ValueError, match="unknown sources"):
            Mixture({name: 1.0}, "drawn")


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


def test_a_last_picture_that_nothing_follows_may_be_asked_for_only(processor: Processor) -> None:
    example = TASKS["segmentation_to_image"](random.Random(4), "drawn")
    whole, asking = (tokenise(example, processor, may_ask) for may_ask in (False, True))
    num_placeholders = len(processor.image_ids) - 1
    assert asking.ids == whole.ids[: -num_placeholders - 1]
    assert asking.ids[-1] == processor.special.soi_token_id
    assert asking.pictures == whole.pictures[:1]
    batch, _ = collate([asking, whole], processor, learn_prompt=True)
    assert batch.num_images_B.tolist() == [1, 2]
    assert len(batch.pixels_N3SS) == 3


def test_a_story_opening_is_a_story_broken_off_where_it_asks_for_a_picture(
    processor: Processor,
) -> None:
    stories = Mixture({"story": 1.0}, "drawn", seed=2).draw(0, 1)
    openings = Mixture({"story_opening": 1.0}, "drawn", seed=2).draw(0, 1)
    (story,), (opening,) = ([tokenise(e, processor) for e in each] for each in (stories, openings))
    assert opening.ids == story.ids[: len(opening.ids)]
    assert opening.ids[-1] == processor.special.soi_token_id
    assert opening.ids.count(processor.special.soi_token_id) == 2
    assert opening.pictures == story.pictures[:1]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "story"])
def test_in_words_no_picture_is_read_and_the_answer_is_the_same(
    task: str, processor: Processor
) -> None:
    (shown,), (told,) = (
        Mixture({name: 1.0}, "drawn", seed=2).draw(0, 1) for name in (task, f"words:{task}")
    )
    assert told.answer == shown.answer
    shown_texts = [part for part in shown.prompt if isinstance(part, str)]
    assert [part for part in told.prompt if part in shown_texts] == shown_texts
    assert len(told.prompt) == len(shown.prompt)
    assert not tokenise(told, processor).pictures


def test_of_further_questions_only_the_answers_are_learned(processor: Processor) -> None:
    stock = Stock.draw_lots("test", "drawn", 6, 1)
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


def test_text_before_the_first_picture_can_be_left_out(processor: Processor) -> None:
    sequence = tokenise(TASKS["story"](random.Random(4), "drawn"), processor)
    first = sequence.ids.index(processor.special.soi_token_id)
    whole, rest = (
        collate([sequence], processor, learn_prompt=True, only_after_image=only)[1][0] != -100
        for only in (False, True)
    )
    assert whole[: first - 1].any()
    assert not rest[: first - 1].any()
    assert whole[first:].equal(rest[first:])


def test_shipped_recipe_is_valid() -> None:
    recipe = Recipe.load(RECIPE)
    assert [phase.phase for phase in recipe.pretrain][0] == "encoder"
    assert recipe.sft


def test_recipe_with_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('preset = "tiny"\n[[pretrain]]\nphase = "vision"\nspeed = 3\n')
    with pytest.raises(ConfigError, match="speed"):
        Recipe.load(path)

"""Scores of chat, and `mmi eval --tasks chat` on a small packaged model."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from model.checkpoint.packaged import base_model
from model.training.evaluation import command
from model.training.evaluation.chat import scores
from model.training.evaluation.chat.questions import questions
from model.training.evaluation.chat.scores import RATIO, RIGHT, UNTOUCHED
from model.training.world.drawn.world import DrawnWorld
from model.training.world.example import Example, GeneratedAnswer
from tests.model.training import chat_model

IMAGE = Image.new("RGB", (4, 4))


class Scripted:
    """Answers rightly to some questions, and adds an image to some."""

    def __init__(self, num_right: int, num_images: int) -> None:
        self.num_right, self.num_images = num_right, num_images

    def answer(self, examples: Sequence[Example], first: int = 0) -> list[GeneratedAnswer]:
        answers = []
        for number in range(first, first + len(examples)):
            parts = [IMAGE] if number < self.num_images else []
            said = "It is Paris, not Pa." if number < self.num_right else "?"
            answers.append(GeneratedAnswer((said, *parts), True))
        return answers


def rows_of(rows: object) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for name, value in rows:  # type: ignore[attr-defined]
        values.setdefault(name, []).append(value)
    return values


def test_ours_and_the_untouched_model_answer_the_same_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capital = next(each for each in questions() if "France" in each.ask)
    monkeypatch.setattr(scores, "questions", lambda: [capital] * 20)
    values = rows_of(scores.question_rows(Scripted(6, 2), Scripted(8, 0), 0, 16))
    assert sum(values[RIGHT]) == sum(values[f"{RIGHT}, fact"]) == 6
    assert sum(values[UNTOUCHED]) == 8
    assert sum(values["chat image though none was asked for"]) == 2
    row = scores.ratio_row(values)[RATIO]
    assert row["mean"] == 0.75 and row["low"] < 0.75 < row["high"] and row["number"] == 16
    alone = rows_of(scores.question_rows(Scripted(6, 2), None, 0, 16))
    assert UNTOUCHED not in alone and scores.ratio_row(alone) == {}


def test_requests_without_an_image_are_counted() -> None:
    lots = [random.Random(number) for number in range(5)]
    values = rows_of(scores.request_rows(Scripted(0, 2), DrawnWorld(), lots, 0))
    assert sum(values["chat no image though one was asked for"]) == 3


def test_the_command_scores_a_packaged_chat_model_beside_the_untouched_one(
    tmp_path: Path,
) -> None:
    base, model, processor = chat_model.make(tmp_path)
    checkpoint, table = tmp_path / "checkpoint", tmp_path / "scores.json"
    base_model.save_trained(model, processor.tokenizer, checkpoint, base, {})
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = ["--checkpoint", str(checkpoint), "--number", "3", "--steps", "1"]
    options += ["--tasks", "chat", "--json", str(table)]
    assert command.run(parser.parse_args(options)) == 0
    found = json.loads(table.read_text())["scores"]
    assert found[RIGHT]["number"] == found[UNTOUCHED]["number"] == 3
    assert {
        "chat image though none was asked for",
        "chat no image though one was asked for",
    } <= set(found)


def test_a_model_of_its_own_is_compared_with_nothing(tmp_path: Path) -> None:
    assert scores.untouched_answerer(tmp_path, command.AnswerOptions()) is None

"""`mmi plan`: its arguments, tables and sentences."""

from __future__ import annotations

import argparse
import io
import json

import pytest
import torch
from rich.console import Console

from model.config.presets import preset
from model.memory.command import (
    add_arguments,
    as_document,
    capacity_table,
    comparison,
    demand_table,
    memory_size,
    run,
    weights_table,
)
from model.memory.plan import GIB, Assumptions, MemoryPlan, plan_memory


@pytest.fixture(scope="module")
def tiny() -> MemoryPlan:
    return plan_memory(preset("tiny"), Assumptions(dtype=torch.float32))


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 * GIB), ("40GB", 40 * 10**9), ("1.5g", 3 * GIB // 2), ("512 MiB", 2**29)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert memory_size(text) == size


def test_bad_sizes_are_refused() -> None:
    for text in ("", "GiB", "-1G", "12 apples"):
        with pytest.raises(argparse.ArgumentTypeError):
            memory_size(text)


def test_command_prints_json(tiny: MemoryPlan, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--preset", "tiny", "--gpu", "4GiB", "--json", "--dtype", "float32"]
    assert run(parser.parse_args(words)) == 0
    assert json.loads(capsys.readouterr().out) == as_document(tiny, [4 * GIB])


def test_tables_are_printed(tiny: MemoryPlan) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    for table in (weights_table(tiny), demand_table(tiny), capacity_table(tiny, [GIB, 10**6])):
        console.print(table)
    text = console.export_text()
    assert "image_decoder" not in text
    for words in ("mmfs_module", "a request of 512 tokens and 4 images", "does not fit"):
        assert words in text


def test_sentences_compare_with_the_official_program() -> None:
    published = plan_memory(preset("13b"), Assumptions())
    lines = comparison(published, [40 * GIB, 80 * GIB])
    assert "On 40.0 GiB the official program does not load; here the text worker fits" in lines[1]
    assert "On 80.0 GiB the official program loads" in lines[2]
    assert "text and image worker together leave" in lines[2]

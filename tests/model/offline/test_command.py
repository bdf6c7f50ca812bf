"""Arguments of `mmi generate --offline`, and one run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from model.checkpoint import seeded, store
from model.config.presets import preset
from model.offline.command import RESULTS, options_of, read_stories, run
from model.offline.story import OfflineOptions
from model.processor import Processor
from service.commands import generate


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(["--offline", *words])


def test_defaults_are_the_official_ones() -> None:
    assert options_of(arguments("text")) == OfflineOptions()


def test_given_options_count() -> None:
    words = ("text", "--greedy", "--steps", "5", "--temperature", "0.5", "--only", "image")
    options = options_of(arguments(*words, "--guidance-rescale", "0.7", "--rounds", "4"))
    assert not options.text.use_nucleus_sampling
    assert (options.num_inference_steps, options.text.temperature) == (5, 0.5)
    assert (options.mode, options.guidance_rescale) == ("generate_images", 0.7)
    assert options.num_iter == 4


def test_content_becomes_a_story(tmp_path: Path) -> None:
    config = preset("tiny")
    processor = Processor(config, seeded.build_tokenizer(config))
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    words = ("see", str(tmp_path / "a.png"), "now", "--only", "image")
    (story,) = read_stories(arguments(*words), processor)
    text = processor.encode_text
    image = processor.image_ids
    assert list(story.input_ids) == [1, *text("see"), *image, *text("now"), *image]
    assert len(story.pixels_N3SS) == 2


@pytest.mark.slow
def test_run_writes_images_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = seeded.create("tiny", tmp_path / "checkpoint")
    out = tmp_path / "out"
    words = ("a cat", "--steps", "1", "--max-tokens", "3", "--force-image", "--seed", "1")
    assert run(arguments(*words, "--checkpoint", str(checkpoint), "--out", str(out))) == 0
    (result,) = json.loads((out / RESULTS).read_text())
    text, name = result["generate_results"]
    assert name == "0_1_0.png"
    with Image.open(out / name) as image:
        assert image.size == (96, 96)
    assert name in capsys.readouterr().out
    options = ("--option", "one", "--option", "another one")
    assert run(arguments(*words, *options, "--checkpoint", str(checkpoint), "--out", str(out))) == 0
    (result,) = json.loads((out / RESULTS).read_text())
    assert len(result["scores"]) == 2 and max(result["scores"]) < 0
    (checkpoint / store.CONFIG).unlink()
    assert run(arguments("a cat", "--checkpoint", str(checkpoint), "--out", str(out))) == 1

"""The official inference loop, on the recorded one and on seeded models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoint import seeded
from model.checkpoint.tokenizer import wrap
from model.config.presets import preset
from model.config.published import published
from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.offline.generation import TextGeneration
from model.offline.story import OfflineEngine, OfflineOptions, Round, Story, read_annotations
from model.processor import Processor
from model.segments import ImageSegment, TextSegment
from tests.model import golden


@pytest.fixture(scope="module")
def recorded_engine() -> OfflineEngine:
    config = golden.config()
    model = MMInterleaved(config).eval()
    model.load_state_dict(golden.state_dict())
    processor = Processor(config, golden.tokenizer())
    call = golden.document()["sets"]["interleaved_loop"]
    params = call["params"]
    options = OfflineOptions(
        text=TextGeneration(
            max_length=params["max_length"],
            min_length=params["min_length"],
            num_beams=1,
            repetition_penalty=call["repetition_penalty"],
        ),
        num_inference_steps=params["steps"],
        guidance_scale=params["gs"],
        force_image=params["force"],
        num_iter=params["rounds"],
    )
    return OfflineEngine(model, processor, options)


@pytest.mark.slow
def test_recorded_loop_is_reproduced(recorded_engine: OfflineEngine) -> None:
    recorded = golden.tensors("interleaved_loop")
    start = Story(
        tuple(recorded["in/text_ids"][0].tolist()),
        golden.images()[recorded["in/image_index"]],
    )
    rounds = list(recorded_engine.run(start))
    assert len(rounds) == recorded_engine.options.num_iter
    for number, done in enumerate(rounds):
        if f"round{number}/output_ids" in recorded:
            ids = recorded[f"round{number}/output_ids"][0, 1:].tolist()
            assert list(done.token_ids) == ids
            after = recorded[f"round{number}/text_ids_after"][0].tolist()
            assert list(done.story.input_ids) == after
            continue
        if (shown := recorded.get(f"round{number}/fed_back_image_u8")) is not None:
            fed_back = (done.story.pixels_N3SS[-1] * 255).round()
            golden.assert_close("fed back", fed_back, shown.float(), 2)
        drawn_HW3 = torch.from_numpy(np.asarray(done.images[0]).copy())
        drawn_13HW = drawn_HW3.permute(2, 0, 1)[None].float() / 255
        golden.assert_recorded(f"round{number}/image", drawn_13HW, recorded, 1e-3 + 0.51 / 255)


@pytest.fixture(scope="module")
def parts() -> tuple[MMInterleaved, Processor]:
    config = preset("tiny")
    model = MMInterleaved(config).eval()
    seeded.randomise(model, config, seed=1)
    return model, Processor(config, seeded.build_tokenizer(config))


OPTIONS = OfflineOptions(
    text=replace(OfflineOptions().text, max_length=6, min_length=1),
    num_inference_steps=1,
    seed=7,
)


def run(parts: tuple[MMInterleaved, Processor], story: Story, **changes: object) -> list[Round]:
    return list(OfflineEngine(*parts, replace(OPTIONS, **changes)).run(story))  # type: ignore[arg-type]


def write_example(directory: Path, **changes: object) -> Path:
    """One story with two images; the second sentence has one in front, the first one behind."""
    for number, size in enumerate(((130, 100), (90, 200))):
        Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20).save(directory / f"{number}.png")
    entry = {
        "sentences": ["A cat sits.", " A dog runs. "],
        "images": ["0.png", "1.png"],
        "sentence_ixs": [0, 1],
        "image_first": [False, True],
    }
    (directory / "annt.json").write_text(json.dumps([entry | changes]))
    return directory / "annt.json"


def test_defaults_are_the_official_ones() -> None:
    options = OfflineOptions()
    assert options.text == TextGeneration(
        max_length=90,
        min_length=8,
        num_beams=1,
        use_nucleus_sampling=True,
        top_p=0.9,
        repetition_penalty=1.3,
        temperature=1.0,
    )
    assert (options.num_inference_steps, options.guidance_scale) == (30, None)
    assert published().image_decoder.guidance_scale == 7.5
    assert (options.scheduler, options.num_iter) == ("ddpm", 2)


def test_example_file_is_read_as_officially(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path
) -> None:
    processor = parts[1]
    (story,) = read_annotations(write_example(tmp_path, num_iter=1), processor)
    image = list(processor.image_ids)
    text = [processor.encode_text(t) for t in ("A cat sits.", "A dog runs. ")]
    assert list(story.input_ids) == [1, *text[0], *image, *image, *text[1]]
    assert story.pixels_N3SS.shape == (2, 3, 96, 96)
    with Image.open(tmp_path / "1.png") as second:
        assert torch.equal(story.pixels_N3SS[1], processor.pixels(second))
    assert len(run(parts, story)) == 1
    assert len(run(parts, story, auto_end=True, num_iter=2)) <= 2


def test_image_paths_may_be_relative_to_the_working_directory(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_example(tmp_path)
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    monkeypatch.chdir(tmp_path)
    assert len(read_annotations(moved, parts[1])) == 1
    with pytest.raises(FileNotFoundError):
        read_annotations(write_example(tmp_path, images=["0.png", "2.png"]), parts[1])


def test_story_without_images_or_with_too_many_is_refused(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path
) -> None:
    empty = write_example(tmp_path, images=[], sentence_ixs=[], image_first=[])
    with pytest.raises(ValueError, match="at least one image"):
        read_annotations(empty, parts[1])
    long = write_example(tmp_path, sentences=["word " * 3000, "end"])
    with pytest.raises(ValueError, match="must fit into 1024 tokens"):
        read_annotations(long, parts[1])


def test_placeholder_image_is_drawn_from_what_precedes_it(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path
) -> None:
    """The mode generate_images replaces the last image, whatever it showed."""
    images = []
    for shade in (0, 200):
        path = write_example(tmp_path, generate_mode="generate_images", num_iter=1)
        Image.new("RGB", (96, 96), (shade, shade, shade)).save(tmp_path / "1.png")
        (story,) = read_annotations(path, parts[1])
        (done,) = run(parts, story)
        images.append(np.asarray(done.images[0]))
        assert len(done.story.pixels_N3SS) == 2
        assert not torch.equal(done.story.pixels_N3SS[1], story.pixels_N3SS[1])
    assert np.array_equal(*images)
    assert images[0].std() > 5


def test_first_image_is_drawn_without_any_before_it(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path
) -> None:
    story = Story.from_context((TextSegment("a red house"),), parts[1])
    assert len(story.pixels_N3SS) == 0
    texts = run(parts, story, force_image=True, num_iter=3)
    assert [len(done.images) for done in texts] == [0, 1, 0]
    assert len(texts[-1].story.pixels_N3SS) == 2
    assert texts[-1].story.input_ids.count(2049) == 2 * 16


def test_replacements_drive_the_story(
    parts: tuple[MMInterleaved, Processor], tmp_path: Path
) -> None:
    path = write_example(
        tmp_path, multiround_context=["then <|beginofimage|>", "", "the end"], num_iter=3
    )
    (story,) = read_annotations(path, parts[1])
    rounds = run(parts, story, replace_text=True, num_images=2)
    processor = parts[1]
    assert [len(done.images) for done in rounds] == [0, 2, 0]
    grown = list(rounds[0].story.input_ids)
    assert grown[len(story.input_ids) :] == [*processor.encode_text("then"), *processor.image_ids]
    first, second = (np.asarray(image) for image in rounds[1].images)
    assert not np.array_equal(first, second), "pictures of a round differ by seed"
    last = rounds[2].story.input_ids
    assert list(last[len(rounds[1].story.input_ids) :])[:2] == processor.encode_text("the end")[:2]


def test_same_seed_gives_the_same_story(parts: tuple[MMInterleaved, Processor]) -> None:
    image = Image.effect_noise((96, 96), 80).convert("RGB")
    context = (TextSegment("look"), ImageSegment(image, "digest"), TextSegment("and"))
    story = Story.from_context(context, parts[1])
    once, again, other = (
        [done.token_ids for done in run(parts, story, num_iter=1, seed=seed)] for seed in (1, 1, 2)
    )
    assert once == again != other


def test_ids_of_the_tokenizer_are_the_configured_ones() -> None:
    config: MMInterleavedConfig = golden.config()
    again, special = wrap(golden.tokenizer().backend_tokenizer, config), config.special_tokens
    ids = (again.bos_token_id, again.eos_token_id, again.pad_token_id)
    assert ids == (special.bos_token_id, special.eos_token_id, special.pad_token_id)

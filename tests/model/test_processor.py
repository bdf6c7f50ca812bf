"""Prompts and pixels by the official rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from model import processor as module
from model.checkpoint import seeded
from model.config.presets import preset
from model.processor import Processor, centre_crop, to_image
from model.segments import ImageSegment, TextSegment, TokenSegment
from tests.model import golden

CONFIG = preset("tiny")
SPECIAL = CONFIG.special_tokens
IMAGE = ImageSegment(Image.new("RGB", (8, 8)), "digest")
IMAGE_IDS = [SPECIAL.soi_token_id, *[SPECIAL.image_token_id] * CONFIG.num_img_token]


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(CONFIG, seeded.build_tokenizer(CONFIG))


def test_prompt_begins_with_bos_and_holds_placeholders(processor: Processor) -> None:
    prompt = processor.encode((TextSegment("A photo"), IMAGE, TextSegment("shows")))
    text = processor.encode_text
    assert list(prompt.input_ids) == [1, *text("A photo"), *IMAGE_IDS, *text("shows")]
    assert prompt.images == (IMAGE.image,)
    assert prompt.digests == ("digest",)


@pytest.mark.parametrize(
    ("before", "after"), [("a ", " b"), ("a\n\t", "\n b"), ("a", "b"), ("a   ", "   b")]
)
def test_white_space_next_to_images_disappears(
    processor: Processor, before: str, after: str
) -> None:
    wanted = processor.encode((TextSegment("a"), IMAGE, TextSegment("b")))
    assert processor.encode((TextSegment(before), IMAGE, TextSegment(after))) == wanted


def test_white_space_elsewhere_stays(processor: Processor) -> None:
    prompt = processor.encode((TextSegment(" a\n"), TextSegment("b ")))
    assert list(prompt.input_ids) == [1, *processor.encode_text(" a\n b ")]


def test_image_before_text_and_images_in_a_row(processor: Processor) -> None:
    prompt = processor.encode((IMAGE, IMAGE, TextSegment(" ")))
    assert list(prompt.input_ids) == [1, *IMAGE_IDS, *IMAGE_IDS]


def test_beginning_an_image_acts_like_an_image_on_the_text(processor: Processor) -> None:
    prompt = processor.encode((TextSegment("draw "),), begin_image=True)
    assert list(prompt.input_ids) == [1, *processor.encode_text("draw"), SPECIAL.soi_token_id]


def test_generated_ids_go_back_exactly_without_what_ended_them(processor: Processor) -> None:
    for end in ([], [SPECIAL.soi_token_id], [SPECIAL.eos_token_id]):
        prompt = processor.encode((TokenSegment((5, 6, 7, *end)), IMAGE))
        assert list(prompt.input_ids) == [1, 5, 6, 7, *IMAGE_IDS]
    for stray in (SPECIAL.soi_token_id, SPECIAL.image_token_id):
        with pytest.raises(ValueError, match="where no image stands"):
            processor.encode((TokenSegment((5, stray, 7)),))


def test_spelled_special_tokens_are_ordinary_text(processor: Processor) -> None:
    names = ("<s>", "</s>", "<pad>", "<|image|>", "<|beginofimage|>")
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice([*names, " ", "x", "<|", "|>", "im", "age"]) for _ in range(9))
        ids = processor.encode_text(text)
        assert not {0, 1, 2, 2048, 2049} & set(ids)
        assert processor.decode(ids) == text


def test_vocabulary_that_merges_a_special_token_cannot_smuggle_it() -> None:
    """A BPE whose merges lead to `<s>` gives its id unless the text is cut."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<": 3, "s": 4, ">": 5, "<s": 6, "a": 7}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("<", "s"), ("<s", ">")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    names = ("<pad>", "<s>", "</s>")
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    processor = Processor(CONFIG, PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert processor.encode_text("a<s>a") == [7, 3, 4, 5, 7]


def test_trusted_text_means_its_special_tokens(processor: Processor) -> None:
    ids = processor.encode_trusted("a <|beginofimage|> b</s>")
    text = processor.encode_text
    assert ids == [*text("a"), SPECIAL.soi_token_id, *text("b"), SPECIAL.eos_token_id]


def test_decoding_leaves_special_tokens_out(processor: Processor) -> None:
    assert (
        processor.decode([1, *processor.encode_text("naïve 日本"), *IMAGE_IDS, 2]) == "naïve 日本"
    )


@pytest.mark.parametrize(
    ("case", "factor"), list(enumerate(golden.document()["sets"]["preprocess"]["upsample"]))
)
def test_preprocessing_equals_the_recorded_one(case: int, factor: int) -> None:
    recorded = golden.tensors("preprocess")
    given = recorded[f"case{case}/in_u8"].permute(1, 2, 0).numpy()
    given = given.repeat(factor, 0).repeat(factor, 1)
    processor = Processor(golden.config(), golden.tokenizer())
    pixels = processor.pixels(Image.fromarray(given))
    theirs = recorded[f"case{case}/out_u8"].float() / 255
    golden.assert_close(f"case {case}", pixels, theirs, 0.0)


def test_long_narrow_images_need_no_huge_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 255, (61, 200, 3), dtype=np.uint8)
    usual = np.asarray(centre_crop(Image.fromarray(values), 96)).astype(int)
    monkeypatch.setattr(module, "_MAX_FULL_RESIZE_RATIO", 1)
    boxed = np.asarray(centre_crop(Image.fromarray(values), 96)).astype(int)
    assert np.abs(usual - boxed).max() <= 1
    assert centre_crop(Image.new("RGB", (60_000, 1)), 96).size == (96, 96)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(processor: Processor, mode: str) -> None:
    pixels = processor.pixels(Image.new("RGB", (50, 70), "red").convert(mode))
    assert pixels.shape == (3, 96, 96)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1


def test_pixels_to_picture_rounds_half_up() -> None:
    values = torch.tensor([0.0, 0.5 / 255, 1.49 / 255, 1.0]).expand(3, 1, 4)
    assert np.asarray(to_image(values))[0, :, 0].tolist() == [0, 1, 1, 255]

"""From contexts to vLLM's inputs and parameters, without an engine."""

from __future__ import annotations

import pytest

from model.checkpoint.seeded import build_tokenizer
from model.config.presets import preset
from model.engine.text.prompt import PromptBuilder, engine_input, extraction_params, vllm_params
from model.processor import Processor
from model.sampling_params import SamplingParams
from model.vllm_plugin.penalties import RESUMED_KEY
from tests.model.engine.served import interleaved, picture, text

CONFIG = preset("tiny")
SPECIAL = CONFIG.special_tokens


def builder(max_len: int = 500) -> PromptBuilder:
    return PromptBuilder(CONFIG, Processor(CONFIG, build_tokenizer(CONFIG)), max_len)


async def test_images_stand_where_their_placeholders_are() -> None:
    prompt = await builder().build(interleaved(1, (1, 2)), False, ())
    inputs = engine_input(prompt, CONFIG)
    ids = inputs["prompt_token_ids"]
    places = inputs["mm_placeholders"]["image"]
    assert len(places) == len(prompt.pixels) == 2
    for place in places:
        assert place.length == CONFIG.num_img_token
        assert ids[place.offset - 1] == SPECIAL.soi_token_id
        assert set(ids[place.offset : place.offset + place.length]) == {SPECIAL.image_token_id}
    assert inputs["mm_hashes"]["image"] == list(prompt.digests)
    without = await builder().build((text(1),), False, ())
    assert "mm_placeholders" not in engine_input(without, CONFIG)


async def test_pixels_of_recent_images_are_kept() -> None:
    prompts, image = builder(), picture(1)
    first = await prompts.build((image,), False, ())
    again = await prompts.build((text(1), image), False, ())
    assert first.pixels[0] is again.pixels[0]
    for seed in range(2, 2 + int(prompts.pixels.maxsize)):
        await prompts.build((picture(seed),), False, ())
    assert image.digest not in prompts.pixels


async def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="images are more than"):
        await builder(9999).build((picture(1),) * (CONFIG.max_images + 1), False, ())
    context = (text(1),)
    length = len((await builder().build(context, False, ())).token_ids)
    await builder(length + 3).build(context, False, (7,))
    with pytest.raises(ValueError, match=f"takes {length + 1} tokens"):
        await builder(length + 2).build(context, False, (7,))


def test_a_resumed_turn_has_so_many_tokens_less() -> None:
    sampling = SamplingParams(min_tokens=8, seed=5, logit_bias={7: 1.0})
    whole = vllm_params(sampling, 10, "allow", CONFIG, (), 99)
    assert (whole.max_tokens, whole.min_tokens, whole.seed, whole.extra_args) == (10, 8, 5, None)
    rest = vllm_params(sampling, 10, "allow", CONFIG, (1, 2, 3), 5)
    assert (rest.max_tokens, rest.min_tokens) == (5, 5)
    assert rest.seed not in (None, 5) and rest.extra_args == {RESUMED_KEY: [1, 2, 3]}


def test_placeholders_are_never_sampled_and_images_only_where_allowed() -> None:
    allowed = vllm_params(SamplingParams(), 9, "allow", CONFIG, (), 9).logit_bias
    forbidden = vllm_params(
        SamplingParams(logit_bias={SPECIAL.soi_token_id: 50.0}), 9, "forbid", CONFIG, (), 9
    ).logit_bias
    assert allowed == {SPECIAL.image_token_id: -100.0}
    assert forbidden == {SPECIAL.image_token_id: -100.0, SPECIAL.soi_token_id: -100.0}


def test_extraction_samples_one_token() -> None:
    params = extraction_params("/some/file")
    assert params.max_tokens == 1
    assert params.extra_args == {"kv_transfer_params": {"hidden_states": "/some/file"}}

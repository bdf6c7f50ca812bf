"""A turn as a state, without an engine."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from model.checkpoint.seeded import build_tokenizer
from model.config.presets import preset
from model.engine.text.prompt import TurnPrompt
from model.engine.text.scores import TokenScores
from model.engine.text.turn import Turn
from model.sampling_params import ImageMode, SamplingParams

SPECIAL = preset("tiny").special_tokens
TOKENIZER = build_tokenizer(preset("tiny")).backend_tokenizer
SCORES = TokenScores(TOKENIZER)
SOI, EOS = SPECIAL.soi_token_id, SPECIAL.eos_token_id
PROMPT = (SPECIAL.bos_token_id, 70, 71)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def turn(
    resume: tuple[int, ...] = (),
    images: ImageMode = "allow",
    max_tokens: int = 50,
    **sampling: object,
) -> Turn:
    prompt = TurnPrompt(PROMPT + resume, (), ())
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return Turn(prompt, resume, params, max_tokens, images, SPECIAL, TOKENIZER)


def output(ids: tuple[int, ...], finished: bool = False, logprobs: object = None) -> object:
    completion = SimpleNamespace(token_ids=list(ids), logprobs=logprobs)
    return SimpleNamespace(outputs=[completion], finished=finished, num_cached_tokens=2)


def test_text_until_the_end_of_sequence() -> None:
    one, ids = turn(), ids_of("one boat")
    first = one.take(output(ids[:1]), SCORES)
    rest = one.take(output((*ids[1:], EOS), finished=True), SCORES)
    assert first and rest and first.text + rest.text == "one boat" and not rest.scores
    assert one.ended and not one.begins_image and not one.stopped
    end = one.end()
    assert (end.reason, end.num_prompt_tokens, end.num_cached_tokens) == ("stop", 3, 2)
    assert end.num_output_tokens == len(ids) + 1


def test_no_tokens_yield_no_delta() -> None:
    one = turn()
    assert one.take(output((), finished=True), SCORES) is None
    assert one.end().reason == "length"


def test_an_image_continues_the_context() -> None:
    resumed, sampled = ids_of("one"), ids_of(" boat")
    one = turn(resumed)
    assert not one.ended
    delta = one.take(output((*sampled, SOI), finished=True), SCORES)
    assert delta and delta.token_ids == (*sampled, SOI)
    assert one.ended and one.begins_image
    assert one.context.token_ids == (*PROMPT, *resumed, *sampled, SOI)
    end = one.end_with_image(torch.zeros(1), 99, anchored=True)
    # The text was sampled with what it found in the cache; what the image found is no news.
    assert (end.reason, end.num_cached_tokens, end.num_prompt_tokens) == ("image", 2, 3)


def test_a_forced_image_samples_nothing() -> None:
    one = turn(images="force")
    assert one.ended and one.begins_image and one.context == one.prompt
    assert one.end_with_image(torch.zeros(1), 3, anchored=False).num_cached_tokens == 3


def test_a_resumed_turn_may_have_ended() -> None:
    word = ids_of("one")
    assert turn(word, max_tokens=len(word)).ended
    assert turn((*word, EOS)).end().reason == "stop"
    assert turn((*word, SOI)).begins_image
    assert turn(word, stop=("ne",)).stopped


def test_a_stop_string_hides_a_later_begin_of_image() -> None:
    one = turn(stop=("boat",))
    delta = one.take(output((*ids_of("a boat"), SOI), finished=True), SCORES)
    assert delta and delta.text == "a " and SOI not in delta.token_ids
    assert one.stopped and not one.begins_image and one.end().reason == "stop"


def test_scores_come_with_the_tokens_that_count() -> None:
    ids = ids_of("a boat and")
    report = [{i: SimpleNamespace(logprob=-0.5, rank=1)} for i in ids]
    one = turn(stop=("boat",), logprobs=1)
    delta = one.take(output(ids, logprobs=report), SCORES)
    assert delta and len(delta.scores) == len(delta.token_ids) < len(ids)
    assert all(score.logprob == -0.5 for score in delta.scores)

"""Answers of an untouched language model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from model.checkpoint.packaged.gguf import GgufLanguageModel
from model.mm_interleaved import Batch
from model.segments import TextSegment
from model.text_decoder.text_decoder import LanguageModel, VisibleImages
from model.training.targets import chat
from model.training.targets.chat import ChatTargets, distribution, untouched
from model.training.targets.plain_requests import plain_requests
from tests.model.checkpoint import small_llama
from tests.model.training import chat_model


@torch.no_grad()
def test_untouched_model_says_what_the_file_says_and_begins_no_image(tmp_path: Path) -> None:
    base, model, _ = chat_model.make(tmp_path)
    ids_BL = torch.arange(3, 40)[None]
    alone = LanguageModel(small_llama.config_around(synchronize_text=False))
    alone.load_state_dict(dict(GgufLanguageModel(base.path()).tensors()))
    nothing = VisibleImages((), torch.zeros(1, ids_BL.shape[1], 0, dtype=torch.bool))
    wanted_BLV = alone(alone.embed_tokens(ids_BL), nothing) @ alone.embed_tokens.weight.T

    teacher = untouched(model.config, base)
    batch = Batch(ids_BL, torch.zeros(0), torch.zeros(1, dtype=torch.long))
    logits_BLV = teacher.text_decoder(teacher(batch).hidden_BLD)
    old = small_llama.SIZES.vocab_size
    assert_close(logits_BLV[..., :old], wanted_BLV)
    assert float(logits_BLV.softmax(-1)[..., old:].max()) < 1e-20


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors."""
    ours, theirs = load_file(one), load_file(other)
    return all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_answers_are_made_once_and_are_functions_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, model, processor = chat_model.make(tmp_path)
    monkeypatch.setattr(chat, "NUM_REQUESTS", chat_model.NUM_REQUESTS)
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for path, seed in ((first, 0), (again, 0), (other, 1)):
        ChatTargets.at(path, model, processor, base, seed)
    assert same(first, again) and not same(first, other)

    made: list[object] = []
    original = chat._make
    monkeypatch.setattr(chat, "_make", lambda *given: made.append(given) or original(*given))
    ChatTargets.at(first, model, processor, base, 0)
    assert not made
    ChatTargets.at(first, model, processor, base, 1)
    assert len(made) == 1 and same(first, other)


def test_prompts_are_those_of_the_server_and_answers_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, model = chat_model.targets_of(tmp_path, monkeypatch)
    _, _, processor = chat_model.make(tmp_path)
    requests = plain_requests(chat_model.NUM_REQUESTS, 0)
    assert targets.prompts == tuple(
        processor.encode((TextSegment(request),)).input_ids for request in requests
    )
    end = model.config.special_tokens.eos_token_id
    for answer in targets.answers:
        assert 0 < len(answer) <= 64
        assert end not in answer[:-1] and (answer[-1] == end or len(answer) == 64)


@torch.no_grad()
def test_expectations_do_not_depend_on_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, model = chat_model.targets_of(tmp_path, monkeypatch)
    teacher = untouched(model.config, chat_model.make(tmp_path)[0])
    start = 0
    for prompt, answer in zip(targets.prompts, targets.answers, strict=True):
        ids_1L = torch.tensor([[*prompt, *answer]])
        batch = Batch(ids_1L, torch.zeros(0), torch.zeros(1, dtype=torch.long))
        hidden_MD = teacher(batch).hidden_BLD[0, len(prompt) - 1 : -1]
        own = slice(start, start + len(answer))
        top_MK, rest_M = distribution(
            teacher.text_decoder(hidden_MD), targets.top_ids_MK[own].long()
        )
        assert_close(targets.top_MK[own].float(), top_MK, atol=2e-3, rtol=2e-3)
        assert_close(targets.rest_M[own], rest_M, atol=1e-3, rtol=1e-3)
        whole_M = top_MK.exp().sum(1) + rest_M.exp()
        assert_close(whole_M, torch.ones_like(whole_M))
        start += len(answer)
    assert start == len(targets.rest_M)


def test_a_step_draws_whole_answers_with_their_own_expectations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, _ = chat_model.targets_of(tmp_path, monkeypatch)
    drawn, again = targets.draw(3, 2), targets.draw(3, 2)
    assert torch.equal(drawn.batch.text_ids_BL, again.batch.text_ids_BL)
    chosen = []
    for ids_L, mask_L in zip(drawn.batch.text_ids_BL, drawn.batch.attention_mask_BL, strict=True):
        ids = tuple(ids_L[mask_L.bool()].tolist())
        [number] = [
            n
            for n, pair in enumerate(zip(targets.prompts, targets.answers, strict=True))
            if (*pair[0], *pair[1]) == ids
        ]
        chosen.append(number)
    assert len(set(chosen)) == 2
    lengths = [len(answer) for answer in targets.answers]
    wanted_M = torch.cat([targets.rest_M[sum(lengths[:n]) : sum(lengths[: n + 1])] for n in chosen])
    assert torch.equal(drawn.rest_M, wanted_M)
    assert drawn.predicts_BL.sum(1).tolist() == [lengths[n] for n in chosen]
    whole = targets.draw(4, 99)
    assert len(whole.batch.text_ids_BL) == chat_model.NUM_REQUESTS

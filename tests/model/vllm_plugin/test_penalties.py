from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams

from model.vllm_plugin.penalties import RESUMED_KEY, ResumedPenalties, ResumedSlotPenalties

RESUMED: dict[str, Any] = {
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "extra_args": {RESUMED_KEY: [3, 3, 4]},
}
# What is charged by the tokens sampled since: vLLM charges their presence itself.
CHARGED = [([], [0, 0, 0, -1.0, -0.75, 0]), ([4], [0, 0, 0, -1.0, -0.25, 0])]


def processor(**sampling: Any) -> Any:
    made = ResumedPenalties(None, torch.device("cpu"), False)
    return made.new_req_logits_processor(SamplingParams(**sampling))


def slots(*prompt_lengths: int) -> tuple[ResumedSlotPenalties, torch.Tensor]:
    """The processor of the model runner V2, and the tokens of its slots."""
    tokens_SL = torch.zeros(len(prompt_lengths), 16, dtype=torch.int32)
    states = SimpleNamespace(
        device=torch.device("cpu"),
        all_token_ids=SimpleNamespace(gpu=tokens_SL),
        prompt_len=SimpleNamespace(np=np.array(prompt_lengths)),
    )
    return ResumedSlotPenalties(None, states), tokens_SL


def step(slots_R: list[int], lengths_R: list[int]) -> Any:
    return SimpleNamespace(
        idx_mapping_np=np.array(slots_R), seq_lens_upper_bound_np=np.array(lengths_R)
    )


def test_requests_that_nothing_is_charged_for_have_no_processor() -> None:
    assert processor(presence_penalty=1.0) is None
    assert processor(extra_args={RESUMED_KEY: [3]}) is None


@pytest.mark.parametrize(("sampled", "charged"), CHARGED)
def test_frequency_is_charged_for_each_and_presence_once(
    sampled: list[int], charged: list[float]
) -> None:
    assert processor(**RESUMED)(sampled, torch.zeros(6)).tolist() == charged


@pytest.mark.parametrize(("sampled", "charged"), CHARGED)
def test_v2_charges_the_same_wherever_the_request_stands_in_the_step(
    sampled: list[int], charged: list[float]
) -> None:
    made, tokens_SL = slots(5, 7)
    assert not made.add_request(0, SamplingParams(presence_penalty=1.0))
    assert made.add_request(1, SamplingParams(**RESUMED))
    tokens_SL[1, :7] = 3  # A token of the prompt is not sampled, whatever the request resumes.
    tokens_SL[1, 7 : 7 + len(sampled)] = torch.tensor(sampled)
    logits_RV = made.apply(torch.zeros(2, 6), step([1, 0], [7 + len(sampled), 5]))
    assert logits_RV.tolist() == [charged, [0] * 6]


def test_v2_forgets_the_request_that_held_a_slot_before() -> None:
    made, _ = slots(5)
    assert made.add_request(0, SamplingParams(**RESUMED))
    assert not made.add_request(0, SamplingParams())
    assert not made.apply(torch.zeros(1, 6), step([0], [5])).any()

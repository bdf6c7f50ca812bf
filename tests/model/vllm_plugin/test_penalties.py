from __future__ import annotations

import torch
from vllm import SamplingParams

from model.vllm_plugin.penalties import RESUMED_KEY, ResumedPenalties


def processor(**sampling: object):
    made = object.__new__(ResumedPenalties)
    return made.new_req_logits_processor(SamplingParams(**sampling))


def test_requests_that_nothing_is_charged_for_have_no_processor() -> None:
    assert processor(presence_penalty=1.0) is None
    assert processor(extra_args={RESUMED_KEY: [3]}) is None


def test_frequency_is_charged_for_each_and_presence_once() -> None:
    penalise = processor(
        presence_penalty=0.5, frequency_penalty=0.25, extra_args={RESUMED_KEY: [3, 3, 4]}
    )
    assert penalise([], torch.zeros(6)).tolist() == [0, 0, 0, -1.0, -0.75, 0]
    # vLLM charges the presence of what was sampled since.
    assert penalise([4], torch.zeros(6)).tolist() == [0, 0, 0, -1.0, -0.25, 0]

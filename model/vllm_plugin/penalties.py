"""Penalties for tokens that a turn generated before it was resumed.

They are a part of the prompt to vLLM, whose presence and frequency penalties ignore prompts. A
request that resumes lists them in `extra_args`; this processor charges frequency for each of them,
and presence for those that vLLM does not charge already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

RESUMED_KEY = "resumed_ids"


class ResumedPenalties(AdapterLogitsProcessor):  # type: ignore[misc]
    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        """The processor of a request that resumes with penalties; None for others."""
        arguments: dict[str, Any] = params.extra_args or {}
        resumed: Sequence[int] = arguments.get(RESUMED_KEY, ())
        if not resumed or not (params.presence_penalty or params.frequency_penalty):
            return None
        counts = Counter(resumed)
        ids_N = torch.tensor(list(counts))
        frequency_N = torch.tensor(list(counts.values())) * params.frequency_penalty

        def penalise(output_ids: list[int], logits_V: torch.Tensor) -> torch.Tensor:
            charged_N = torch.isin(ids_N, torch.tensor(output_ids, dtype=torch.long))
            penalty_N = frequency_N + params.presence_penalty * ~charged_N
            logits_V[ids_N.to(logits_V.device)] -= penalty_N.to(logits_V)
            return logits_V

        return penalise

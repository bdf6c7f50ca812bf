"""Penalties for tokens that a turn generated before it was resumed.

They are a part of the prompt to vLLM, whose presence and frequency penalties ignore prompts. A
request that resumes lists them in `extra_args`; a processor charges frequency for each of them,
and presence for those that vLLM does not charge already. Each of vLLM's model runners has its own
interface for processors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

RESUMED_KEY = "resumed_ids"


@dataclass(frozen=True)
class Charge:
    """What a request owes for the N different tokens that it resumes with."""

    ids_N: Tensor
    frequency_N: Tensor
    presence: float

    @classmethod
    def of(cls, params: SamplingParams, device: torch.device) -> Charge | None:
        """The charge of a request; None for one that resumes nothing or has no such penalties."""
        arguments: dict[str, Any] = params.extra_args or {}
        resumed: Sequence[int] = arguments.get(RESUMED_KEY, ())
        if not resumed or not (params.presence_penalty or params.frequency_penalty):
            return None
        counts = Counter(resumed)
        frequency_N = torch.tensor(list(counts.values())) * params.frequency_penalty
        return cls(
            torch.tensor(list(counts), device=device),
            frequency_N.to(device),
            params.presence_penalty,
        )

    def apply(self, output_ids_L: Tensor, logits_V: Tensor) -> None:
        """Charge, in place, a request that has sampled `output_ids_L` since it resumed."""
        charged_N = torch.isin(self.ids_N, output_ids_L)
        penalty_N = self.frequency_N + self.presence * ~charged_N
        logits_V[self.ids_N] -= penalty_N.to(logits_V)


class ResumedPenalties(AdapterLogitsProcessor):  # type: ignore[misc]
    """For the model runner V1."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._device = device

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], Tensor], Tensor] | None:
        """The processor of a request that resumes with penalties; None for others."""
        charge = Charge.of(params, self._device)
        if charge is None:
            return None

        def penalise(output_ids: list[int], logits_V: Tensor) -> Tensor:
            output_ids_L = torch.tensor(output_ids, dtype=torch.long, device=logits_V.device)
            charge.apply(output_ids_L, logits_V)
            return logits_V

        return penalise


class ResumedSlotPenalties(LogitsProcessor):  # type: ignore[misc]
    """For the model runner V2, which keeps requests in slots and their tokens on the device."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._requests = req_states
        self._charges: dict[int, Charge] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take over a slot; returns whether its logits are changed."""
        charge = Charge.of(sampling_params, self._requests.device)
        self._charges.pop(req_idx, None)
        if charge is not None:
            self._charges[req_idx] = charge
        return charge is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Charge the requests of a step; `logits` has a row for each."""
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            if (charge := self._charges.get(slot)) is not None:
                first = int(self._requests.prompt_len.np[slot])
                end = int(ctx.seq_lens_upper_bound_np[row])
                charge.apply(self._requests.all_token_ids.gpu[slot, first:end], logits[row])
        return logits

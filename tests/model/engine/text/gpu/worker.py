"""vLLM's GPU worker without a GPU: it takes host memory for the card's."""

from __future__ import annotations

import types

import torch
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment

from tests.model.engine.text.gpu import accelerator


class InterpretedWorker(Worker):  # type: ignore[misc]
    def init_device(self) -> None:
        """What vLLM's worker does, without looking at a card."""
        self.device = torch.device("cpu")
        init_worker_distributed_environment(
            self.vllm_config, self.rank, self.distributed_init_method, self.local_rank, "gloo"
        )
        set_random_seed(self.model_config.seed)
        self.init_snapshot = types.SimpleNamespace(
            free_memory=accelerator.FREE_BYTES, total_memory=accelerator.TOTAL_BYTES, timestamp=0
        )
        self.requested_memory = accelerator.FREE_BYTES // 2
        self._init_workspace_and_model_runner()

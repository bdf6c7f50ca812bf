"""Writes the final hidden states of a whole context to a file.

A KV connector that moves no keys and values. For a request with
`extra_args={"kv_transfer_params": {"hidden_states": PATH}}` it writes the hidden states of all
prompt tokens, those in the prefix cache included, to PATH, before the request's first token is
returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from model.vllm_plugin.cache.layer import CacheNames

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks

PATH_KEY = "hidden_states"


@dataclass
class Extraction:
    """The blocks of a request's tokens, and the file for their hidden states."""

    path: str
    block_ids: list[int]
    num_tokens: int


@dataclass
class HiddenStatesMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """The extractions of one step."""

    extractions: list[Extraction] = field(default_factory=list)


class HiddenStatesConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Scheduler side: finds completed prompts. Worker side: writes their hidden states."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._watched: dict[str, Request] = {}
        self._cache = torch.empty(0)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    def on_new_request(self, request: Request) -> None:
        if (request.kv_transfer_params or {}).get(PATH_KEY):
            self._watched[request.request_id] = request

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> HiddenStatesMetadata:
        """Extract from the requests whose prompt this step completes."""
        metadata = HiddenStatesMetadata()
        for request_id, request in self._watched.items():
            scheduled = scheduler_output.num_scheduled_tokens.get(request_id, 0)
            if scheduled and request.num_computed_tokens + scheduled >= request.num_prompt_tokens:
                assert self._kv_cache_manager is not None
                blocks = self._kv_cache_manager.get_block_ids(request_id)
                path = request.kv_transfer_params[PATH_KEY]
                metadata.extractions.append(
                    Extraction(path, list(blocks[0]), request.num_prompt_tokens)
                )
        return metadata

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forget the request; its blocks can be freed at once."""
        self._watched.pop(request.request_id, None)
        return False, None

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        llm = self._vllm_config.model_config.hf_config
        self._cache = kv_caches[CacheNames.after(llm.num_hidden_layers).hidden_states]

    def wait_for_save(self) -> None:
        """Write this step's hidden states; vLLM calls it after the forward pass of a step."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, HiddenStatesMetadata)
        if get_tensor_model_parallel_rank() == 0:
            for extraction in metadata.extractions:
                self._write(extraction)

    def _write(self, extraction: Extraction) -> None:
        """Copy the rows of one request into its file, atomically."""
        blocks_BHNC = self._cache[torch.tensor(extraction.block_ids, device=self._cache.device)]
        hidden_LD = blocks_BHNC.reshape(-1, self._cache.shape[-1])[: extraction.num_tokens]
        path = Path(extraction.path)
        temporary = path.with_suffix(".part")
        save_file({PATH_KEY: hidden_LD.cpu().contiguous()}, temporary)
        temporary.replace(path)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing is ever loaded."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is ever loaded."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Keys and values stay where they are."""

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """There is no external cache."""

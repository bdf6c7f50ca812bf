"""The cache of image features, and sampling from it."""

from __future__ import annotations

from pathlib import Path

import torch
from vllm.config import VllmConfig

from model.vllm_plugin.cache import TokenCacheLayer
from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.kernels import choose_sampler
from model.vllm_plugin.metadata import StepMetadata
from model.vllm_plugin.plan import StepPlan
from model.vllm_plugin.sampling import EXTRA


class FeatureCache(TokenCacheLayer):
    """Feature vectors of images, `vectors_per_token` in the row of each placeholder."""

    def __init__(self, vllm_config: VllmConfig, name: str, geometry: Geometry) -> None:
        super().__init__(vllm_config, name, geometry.token_width)
        self.geometry = geometry
        self.plan: StepPlan | None = None
        settings = vllm_config.additional_config
        self._sampler = choose_sampler(
            settings.get("kernel", "auto"),
            geometry,
            torch.device(vllm_config.device_config.device_type),
            self.dtype,
            Path(settings.get("cache_dir", ".build")),
        )

    def write_images(
        self, metadata: StepMetadata, token_M: torch.Tensor, features_MW: torch.Tensor
    ) -> None:
        """Store the features of the placeholders at indices `token_M` of the step."""
        slots_M = metadata.slot_mapping[token_M]
        self.rows.index_copy_(0, slots_M, features_MW.to(self.dtype))

    def sample(self, query_TX: torch.Tensor, relative_RX: torch.Tensor) -> torch.Tensor:
        """Sample by this step's plan; see `model.vllm_plugin.sampling.sample`."""
        geometry = self.geometry
        shape = (geometry.num_heads, len(query_TX), geometry.channels + EXTRA)
        if self.plan is None:  # The engine measures memory; there is no cache yet.
            return query_TX.new_zeros(shape)
        sampled_HTC = self._sampler(query_TX, relative_RX, self.rows, self.plan)
        if sampled_HTC.shape[1] < shape[1]:  # Padding of the step, which reads nothing.
            out_HTC = query_TX.new_zeros(shape)
            out_HTC[:, : sampled_HTC.shape[1]] = sampled_HTC
            return out_HTC
        return sampled_HTC.to(query_TX.dtype)

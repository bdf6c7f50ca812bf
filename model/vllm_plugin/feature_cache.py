"""The cache of image features, and sampling from it."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig

from model.vllm_plugin.cache import TokenCacheLayer
from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.metadata import StepMetadata
from model.vllm_plugin.plan import StepPlan
from model.vllm_plugin.sampling import EXTRA, sample


class FeatureCache(TokenCacheLayer):
    """Feature vectors of images, `vectors_per_token` in the row of each placeholder."""

    def __init__(self, vllm_config: VllmConfig, name: str, geometry: Geometry) -> None:
        super().__init__(vllm_config, name, geometry.token_width)
        self.geometry = geometry
        self.plan: StepPlan | None = None

    def write_images(
        self, metadata: StepMetadata, token_M: torch.Tensor, features_MW: torch.Tensor
    ) -> None:
        """Store the features of the placeholders at indices `token_M` of the step."""
        slots_M = metadata.slot_mapping[token_M]
        self.rows.index_copy_(0, slots_M, features_MW.to(self.dtype))

    def sample(self, query_TX: torch.Tensor, relative_RX: torch.Tensor) -> torch.Tensor:
        """Sample by this step's plan; see `model.vllm_plugin.sampling.sample`."""
        if self.plan is None:  # The engine measures memory; there is no cache yet.
            geometry = self.geometry
            return query_TX.new_zeros(geometry.num_heads, len(query_TX), geometry.channels + EXTRA)
        return sample(query_TX, relative_RX, self.rows, self.plan, self.geometry)

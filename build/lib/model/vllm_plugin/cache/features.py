"""The paged cache of image features, and grid sampling from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from vllm.config import VllmConfig

from model.synchronizer.geometry import EXTRA, Geometry, Sight
from model.synchronizer.kernels.choice import choose_kernel
from model.vllm_plugin.cache.layer import TokenCacheLayer
from model.vllm_plugin.cache.metadata import StepMetadata


class PagedImageFeatures(TokenCacheLayer):
    """Feature vectors of images: a placeholder's row holds `vectors_per_token` of them."""

    def __init__(self, vllm_config: VllmConfig, name: str, geometry: Geometry) -> None:
        super().__init__(vllm_config, name, geometry.token_width)
        self.geometry = geometry
        self.sight: Sight | None = None
        settings = vllm_config.additional_config
        self._kernel = choose_kernel(
            settings.get("kernel", "auto"),
            geometry,
            torch.device(vllm_config.device_config.device_type),
            self.dtype,
            Path(settings.get("cache_dir", ".build")),
        )

    def write_images(self, metadata: StepMetadata, token_M: Tensor, features_MW: Tensor) -> None:
        """Store the features of the placeholders at indices `token_M` of the step."""
        slots_M = metadata.slot_mapping[token_M]
        self.rows.index_copy_(0, slots_M, features_MW.to(self.dtype))

    def sample(self, query_TX: Tensor, relative_RX: Tensor) -> Tensor:
        """Sample what this step's tokens see, [T, H, C + 2]; see `Kernel`."""
        geometry = self.geometry
        shape = (len(query_TX), geometry.num_heads, geometry.channels + EXTRA)
        if self.sight is None:  # The engine measures memory; there is no cache yet.
            return query_TX.new_zeros(shape)
        sampled_THC = self._kernel(query_TX, relative_RX, self.rows, self.sight)
        if len(sampled_THC) < len(query_TX):  # Padding of the step, which reads nothing.
            out_THC = query_TX.new_zeros(shape)
            out_THC[: len(sampled_THC)] = sampled_THC
            return out_THC
        return sampled_THC.to(query_TX.dtype)

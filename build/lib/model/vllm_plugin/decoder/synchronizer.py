"""The synchronizer of one decoder layer, in folded form, on the paged feature cache."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.utils.torch_utils import direct_register_custom_op

from model.synchronizer.folding import fold_layer
from model.synchronizer.geometry import EXTRA, Geometry
from model.vllm_plugin.cache.features import PagedImageFeatures


class PagedSynchronizer(nn.Module):
    """Reads the images that each token sees; the output is added to the residual stream."""

    def __init__(
        self, geometry: Geometry, width: int, values: int, eps: float, cache_name: str
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.cache_name = cache_name
        self.norm1 = RMSNorm(width, eps=eps)
        numbers, columns = geometry.num_predicted, geometry.channels + EXTRA

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape), requires_grad=False)

        self.query_XD = parameter(numbers, width)
        self.query_bias_X = parameter(numbers)
        self.relative_RX = parameter(geometry.num_relative, numbers)
        self.value_HYd = parameter(geometry.num_heads, columns, values // geometry.num_heads)
        self.output_DV = parameter(width, values)
        self.output_bias_D = parameter(width)

    def forward(
        self, update_TD: torch.Tensor, residual_TD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `update_TD` to the residual stream, then read the images for it."""
        query_TD, residual_TD = self.norm1(update_TD, residual_TD)
        query_TX = F.linear(query_TD, self.query_XD, self.query_bias_X)
        sampled_THY = torch.ops.mmi.sample_images(query_TX, self.relative_RX, self.cache_name)
        values_HTd = torch.bmm(sampled_THY.transpose(0, 1), self.value_HYd)
        values_TV = values_HTd.transpose(0, 1).flatten(1)
        return F.linear(values_TV, self.output_DV, self.output_bias_D), residual_TD

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Fold the official parameters of this layer into ours."""
        folded = fold_layer(weights, self.geometry)
        for name, tensor in vars(folded).items():
            getattr(self, name).data.copy_(tensor)
        self.norm1.weight.data.copy_(weights["norm1.weight"])


def _sample_images(
    query_TX: torch.Tensor, relative_RX: torch.Tensor, cache_name: str
) -> torch.Tensor:
    """Sample for the step that is running; the cache knows what its tokens see."""
    cache = get_forward_context().no_compile_layers[cache_name]
    assert isinstance(cache, PagedImageFeatures)
    return cache.sample(query_TX, relative_RX)


def _sample_images_shape(
    query_TX: torch.Tensor, relative_RX: torch.Tensor, cache_name: str
) -> torch.Tensor:
    """What `_sample_images` would return, for tracing."""
    cache = get_forward_context().no_compile_layers[cache_name]
    geometry = cache.geometry
    # Not `len`, which would pin the traced graph to one number of tokens.
    num_tokens = query_TX.shape[0]
    return query_TX.new_empty(num_tokens, geometry.num_heads, geometry.channels + EXTRA)


# The operator lives as long as its library.
_LIBRARY = torch.library.Library("mmi", "FRAGMENT")
direct_register_custom_op(
    op_name="sample_images",
    op_func=_sample_images,
    fake_impl=_sample_images_shape,
    target_lib=_LIBRARY,
)

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.model_executor.models.utils import extract_layer_index

from model.vllm_plugin.cache.layer import CacheNames, TokenCacheLayer
from tests.model.vllm_plugin.cache.test_plan import paged_step


def layer(name: str = "features.7", width: int = 3) -> tuple[TokenCacheLayer, dict[str, object]]:
    context: dict[str, object] = {}
    settings = SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.bfloat16),
        compilation_config=SimpleNamespace(static_forward_context=context),
        cache_config=SimpleNamespace(block_size=4),
    )
    made = TokenCacheLayer(settings, name, width)
    spec = made.get_kv_cache_spec(settings)
    assert (spec.block_size, spec.head_size, spec.head_size_v) == (4, width, 0)
    return made, context


def test_layers_are_known_to_the_engine_by_names_with_an_index_of_their_own() -> None:
    names = vars(CacheNames.after(6)).values()
    assert sorted(map(extract_layer_index, names)) == [6, 7, 8]
    made, context = layer()
    assert context == {"features.7": made}


def test_rows_are_written_where_the_step_puts_its_tokens() -> None:
    made, _ = layer()
    made.bind_kv_cache(torch.zeros(5, 1, 4, 3, dtype=torch.bfloat16))
    _, metadata, _, _ = paged_step([0, 0, 0, 0])
    metadata.num_tokens, metadata.slot_mapping = 2, torch.tensor([9, 4, 17])
    made.write(metadata, torch.arange(9.0).view(3, 3))
    assert made.rows[9].tolist() == [0, 1, 2] and made.rows[4].tolist() == [3, 4, 5]
    assert made.rows.count_nonzero() == 5  # Nothing of the padding behind the step's tokens.


def test_scattered_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="layer's blocks together"):
        layer()[0].bind_kv_cache(torch.zeros(5, 2, 4, 3)[:, :1])

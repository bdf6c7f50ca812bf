"""A layer without an engine around it; its numbers are in tests/model/engine/text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.models.llama import LlamaDecoderLayer

from model.config.presets import preset
from model.vllm_plugin.cache.layer import CacheNames
from model.vllm_plugin.decoder.layer import InterleavedDecoderLayer

CONFIG = preset("tiny")
WIDTH = 8


class AddNorm(nn.Module):
    """A norm as vLLM's: adds what is given to the residual, and returns both."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            return x * self.factor
        return (x + residual) * self.factor, x + residual


class Attention(nn.Module):
    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * positions[:, None]


class Image(nn.Module):
    """A synchronizer that takes the update into the residual and adds a constant."""

    def forward(
        self, update: torch.Tensor, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(update, 100.0), update + residual


def layer(synchronizer: nn.Module | None) -> InterleavedDecoderLayer:
    made = InterleavedDecoderLayer.__new__(InterleavedDecoderLayer)
    nn.Module.__init__(made)
    made.input_layernorm, made.post_attention_layernorm = AddNorm(2.0), AddNorm(3.0)
    made.self_attn, made.mlp = Attention(), nn.Identity()
    made.llama_cross_attn = synchronizer
    return made


@pytest.mark.parametrize("is_first", [True, False])
def test_without_a_synchronizer_it_is_llamas(is_first: bool) -> None:
    positions, hidden = torch.arange(3.0), torch.randn(3, WIDTH)
    residual = None if is_first else torch.randn(3, WIDTH)
    made = layer(None)
    ours = made(positions, hidden.clone(), residual)
    theirs = LlamaDecoderLayer.forward(made, positions, hidden.clone(), residual)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_images_are_read_between_attention_and_mlp() -> None:
    positions, hidden, residual = torch.arange(3.0), torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    plain, plain_residual = layer(None)(positions, hidden, residual)
    ours, ours_residual = layer(Image())(positions, hidden, residual)
    # The residual stream has attention's update and what was read.
    torch.testing.assert_close(ours_residual, plain_residual + 100)
    torch.testing.assert_close(ours, plain + 300)


def test_the_layers_of_the_configuration_have_a_synchronizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(self: nn.Module, *arguments: object, **options: object) -> None:
        nn.Module.__init__(self)

    monkeypatch.setattr(LlamaDecoderLayer, "__init__", init)
    settings = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=SimpleNamespace(interleaved=CONFIG))
    )
    number = CONFIG.llm.num_hidden_layers
    with set_current_vllm_config(VllmConfig()):
        made = [InterleavedDecoderLayer(settings, f"model.layers.{n}") for n in range(number)]
    having = [n for n, one in enumerate(made) if one.llama_cross_attn is not None]
    assert having == sorted(CONFIG.synchronizer_layers) and 0 < len(having) < number
    for index in having:
        synchronizer = made[index].llama_cross_attn
        assert synchronizer.cache_name == CacheNames.after(number).features
        assert synchronizer.output_DV.shape[0] == CONFIG.llm.hidden_size

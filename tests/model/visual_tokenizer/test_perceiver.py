import torch

from model.config.schema import PerceiverConfig
from model.visual_tokenizer.perceiver import PerceiverResampler

CONFIG = PerceiverConfig(
    num_queries=5,
    hidden_size=12,
    encoder_hidden_size=7,
    cross_attention_frequency=2,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=20,
    qk_normalization=True,
)


def test_masked_tokens_are_not_read():
    perceiver = PerceiverResampler(CONFIG).eval().requires_grad_(False)
    encoded = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    tokens = perceiver(encoded, mask)
    assert tokens.shape == (2, 5, 12)
    assert (tokens[:1] - perceiver(encoded[:1, :4])).abs().max() < 1e-6
    assert (tokens[1:] - perceiver(encoded[1:])).abs().max() < 1e-6


def test_every_second_layer_reads():
    layers = PerceiverResampler(CONFIG).blip2qformer.encoder.layer
    assert [layer.crossattention is not None for layer in layers] == [True, False, True]


def test_each_query_gives_its_own_token():
    tokens = PerceiverResampler(CONFIG)(torch.randn(1, 4, 7))
    assert torch.unique(tokens[0].detach(), dim=0).shape[0] == 5

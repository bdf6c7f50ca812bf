"""Starting values."""

from __future__ import annotations

import torch

from model.config.presets import preset
from model.config.schema import LanguageModelConfig, MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.positions import rotary_table, rotate
from model.text_decoder.text_decoder import CausalSelfAttention
from model.training.weights.start import match_tokens


def _matching() -> tuple[LanguageModelConfig, CausalSelfAttention]:
    torch.manual_seed(0)
    config = preset("tiny").llm
    attention = CausalSelfAttention(config, 0)
    match_tokens(attention, config)
    return config, attention


@torch.no_grad()
def test_a_matching_head_finds_the_earlier_token_that_is_like_its_own() -> None:
    config, attention = _matching()
    words_LD = torch.randn(40, config.hidden_size)
    words_LD[-1] = words_LD[5]
    rotation = rotary_table(config, torch.arange(40)[None], torch.float32)
    q_Ld, k_Ld = (
        rotate(linear(words_LD)[None, None, :, : config.head_width], rotation)[0, 0]
        for linear in (attention.q_proj, attention.k_proj)
    )
    weights_L = (q_Ld[-1] @ k_Ld[:-1].T / config.head_width**0.5).softmax(-1)
    assert int(weights_L.argmax()) == 5
    assert float(weights_L[5]) > 0.9


@torch.no_grad()
def test_a_matching_head_repeats_what_it_finds() -> None:
    config, attention = _matching()
    word_D = torch.randn(config.hidden_size)
    width = config.head_width
    repeated_D = attention.o_proj.weight[:, :width] @ (attention.v_proj.weight[:width] @ word_D)
    assert float(torch.cosine_similarity(repeated_D, word_D, dim=0)) > 0.4


def test_image_tokens_start_by_telling_the_words_of_a_context_apart(
    config: MMInterleavedConfig, model: MMInterleaved
) -> None:
    torch.manual_seed(0)
    context_1KD = torch.randn(1, 12, config.image_decoder.perceiver.encoder_hidden_size)
    spreads = []
    for each in (MMInterleaved(config), model):
        perceiver = each.image_decoder.perceiver_resampler
        queries_1QD = perceiver.blip2qformer.layernorm(perceiver.queries)
        attention = perceiver.blip2qformer.encoder.layer[0].crossattention.attention
        spreads.append(attention(queries_1QD, context_1KD, None).std(1).mean())
    assert spreads[1] > 3 * spreads[0]

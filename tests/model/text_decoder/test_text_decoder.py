import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.text_decoder.text_decoder import Cache, LanguageModel, TextHead, VisibleImages


def configuration(**changes) -> MMInterleavedConfig:
    """The tiny preset with another language model, small enough for tests."""
    config = preset("tiny")
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 50,
    } | changes
    return dataclasses.replace(
        config,
        llm=dataclasses.replace(config.llm, **sizes),
        image_decoder=dataclasses.replace(
            config.image_decoder,
            perceiver=dataclasses.replace(
                config.image_decoder.perceiver, encoder_hidden_size=sizes["hidden_size"]
            ),
        ),
        txt_vocab_size=52,
    )


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval().requires_grad_(False)


def no_images(model: LanguageModel, config: MMInterleavedConfig, B: int, L: int) -> VisibleImages:
    features = torch.zeros(B, 0, config.num_image_vectors, config.image_embed_dim)
    return VisibleImages(model.project_images(features), torch.zeros(B, L, 0, dtype=torch.bool))


VARIANTS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1, "rope_theta": 100000.0},
    "wide heads": {"head_dim": 32, "rope_theta": 500.0, "rms_norm_eps": 1e-5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_gate_it_is_any_llama(variant):
    config = configuration(**VARIANTS[variant])
    llm = config.llm
    ours = randomised(LanguageModel(config))
    for layer in ours.layers:
        if layer.llama_cross_attn is not None:
            layer.llama_cross_attn.gate.zero_()
    theirs = LlamaModel(
        LlamaConfig(
            hidden_size=llm.hidden_size,
            num_hidden_layers=llm.num_hidden_layers,
            num_attention_heads=llm.num_attention_heads,
            num_key_value_heads=llm.kv_heads,
            head_dim=llm.head_width,
            intermediate_size=llm.intermediate_size,
            vocab_size=config.txt_vocab_size,
            rms_norm_eps=llm.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": llm.rope_theta},
        )
    ).eval()
    state = {k: v for k, v in ours.state_dict().items() if "llama_cross_attn" not in k}
    theirs.load_state_dict(state)
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    hidden = ours(ours.embed_tokens(ids), no_images(ours, config, 2, 9), mask)
    assert (hidden - expected)[mask.bool()].abs().max() < 2e-5


@pytest.fixture(scope="module")
def seeing():
    """A model with images, its inputs, and what it makes of them in one go."""
    config = configuration(num_key_value_heads=2)
    model = randomised(LanguageModel(config))
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(
        2, 3, config.num_image_vectors, config.image_embed_dim, generator=generator
    )
    visible = torch.rand(2, 7, 3, generator=generator) < 0.5
    embeds = torch.randn(2, 7, config.llm.hidden_size, generator=generator)
    images = VisibleImages(model.project_images(features), visible)
    return model, embeds, images, model(embeds, images)


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 1, 2, 1], [1, 6]])
def test_any_split_into_steps_gives_the_same_states(seeing, chunks):
    model, embeds, images, whole = seeing
    cache, parts, start = Cache(), [], 0
    for size in chunks:
        step = slice(start, start + size)
        visible = VisibleImages(images.values, images.visible_BLI[:, step])
        parts.append(model(embeds[:, step], visible, cache=cache))
        start += size
    assert len(cache) == 7
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-5


def test_padding_in_front_changes_nothing(seeing):
    model, embeds, images, whole = seeing
    padded = torch.nn.functional.pad(embeds, (0, 0, 3, 0), value=5.0)
    visible = torch.nn.functional.pad(images.visible_BLI, (0, 0, 3, 0))
    mask = torch.tensor([[0] * 3 + [1] * 7] * 2)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(padded, VisibleImages(images.values, visible), mask, positions)
    assert out.isfinite().all()
    assert (out[:, 3:] - whole).abs().max() < 1e-5


def test_what_is_seen_matters_token_by_token(seeing):
    model, embeds, images, whole = seeing
    visible = images.visible_BLI.clone()
    visible[0, 4] = ~visible[0, 4]
    changed = model(embeds, VisibleImages(images.values, visible))
    assert torch.equal(changed[0, :4], whole[0, :4])
    assert torch.equal(changed[1], whole[1])
    assert (changed[0, 4:] - whole[0, 4:]).abs().amax(-1).min() > 1e-4


def test_beams_reorder_the_cache(seeing):
    model, embeds, images, _ = seeing
    cache = Cache()
    model(embeds, images, cache=cache)
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.layers[2][0].shape[0] == 3
    assert torch.equal(cache.layers[2][0][0], cache.layers[2][0][1])


def test_new_logits_are_exact_although_their_terms_are_large():
    config = configuration()
    head = randomised(TextHead(config))
    with torch.no_grad():
        head.head.bias[50:] = -100.0
        head.head_new.bias[:] = torch.tensor([97.25, 99.5])
    hidden = torch.randn(3, 4, config.llm.hidden_size)
    exact = hidden.double() @ (head.head.weight[50:] + head.head_new.weight).double().T
    exact = exact + torch.tensor([-2.75, -0.5], dtype=torch.float64)
    logits = head(hidden)
    assert logits.shape == (3, 4, 52)
    assert (logits[..., 50:] - exact).abs().max() < 1e-5
    old = hidden @ head.head.weight[:50].T + head.head.bias[:50]
    assert (logits[..., :50] - old).abs().max() < 1e-5


def test_untrained_new_tokens_are_improbable():
    head = TextHead(configuration())
    logits = head(torch.randn(1, 1, 64))
    assert logits.dtype == torch.float32
    assert logits[..., 50:].max() == -5

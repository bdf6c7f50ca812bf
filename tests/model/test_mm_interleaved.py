import dataclasses
import re

import pytest
import torch

from model.checkpoint.load import serving_dtype
from model.config.presets import preset
from model.config.schema import ConfigError
from model.mm_interleaved import ALL, IMAGE, TEXT, Batch, MMInterleaved, ModelOutput
from model.text_decoder import context
from tests.model import golden

MMFS = "image_decoder.decoder.mmfs_module."


@pytest.fixture(scope="module")
def model():
    return golden.model().requires_grad_(False)


@pytest.fixture(scope="module")
def recorded():
    return golden.part(golden.tensors("full_model"), "out/")


@pytest.fixture(scope="module")
def read(model):
    """Features and hidden states of the recorded batch, and the residual stream."""
    stream = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: stream.append(out))
        for layer in model.mm_decoder.layers
    ]
    output = model(golden.batch())
    for hook in hooks:
        hook.remove()
    return output.visual, output.hidden_BLD, torch.stack(stream[:-1])


def test_language_model_matches_the_official_numbers(model, recorded, read):
    batch, (visual, hidden, stream) = golden.batch(), read
    sides = model.config.spatial_shapes
    maps = [m.flatten(2).transpose(1, 2) for m in visual.maps if m.shape[-1] in sides]
    by_sequence = context.by_sequence(torch.cat(maps, 1), batch.num_images_B)
    (features,) = (name for name in recorded if name.startswith("mmfs_features_mm_stride"))
    stride = int(features.removeprefix("mmfs_features_mm_stride"))
    ours = {
        "mm_embeds": model.embed(batch.text_ids_BL, visual),
        "cross_attention_mask": model.visible_images(batch, visual).visible_BLI.float(),
        features: by_sequence[:, :, ::stride],
        "layer_hidden_states": stream,
        "mm_hidden_state": hidden,
    }
    for name, tensor in ours.items():
        golden.assert_close(name, tensor, recorded[name], 1e-4)
    golden.assert_close("text_logits", model.text_decoder(hidden), recorded["text_logits"], 2e-4)


@pytest.mark.parametrize("variant", ["train", "gen"])
def test_image_conditions_match_the_official_numbers(model, recorded, read, variant):
    batch, (visual, hidden, _) = golden.batch(documents_apart=variant == "train"), read
    conditions = model.image_conditions(ModelOutput(hidden, visual, None), batch)
    tokens = model.image_tokens(conditions.context_NKD, conditions.context_mask_NK)
    ours = {
        "context_features": conditions.context_NKD,
        "context_attention_mask": conditions.context_mask_NK,
        "imgdec_mmfs_mask": conditions.visible_N1,
        "conditioning": tokens,
    }
    for name, tensor in ours.items():
        golden.assert_close(f"{name}_{variant}", tensor, recorded[f"{name}_{variant}"], 1e-4)
    previous = context.previous_images(
        batch.text_ids_BL, model.config.special_tokens, batch.bos_columns_N
    )
    assert torch.equal(previous, recorded[f"imgdec_prev_image_{variant}"])
    for n, index in enumerate(previous.tolist()):
        for given, maps in zip(conditions.maps, visual.maps, strict=True):
            expected = maps[index] if index >= 0 else torch.zeros_like(maps[0])
            assert torch.equal(given[n, 0], expected)


def test_forward_is_the_same_computation(model, recorded):
    batch = golden.batch(documents_apart=True)
    output = model(batch)
    logits, tokens = heads(model, output, batch)
    golden.assert_close("logits", logits, recorded["text_logits"], 2e-4)
    golden.assert_close("tokens", tokens, recorded["conditioning_train"], 1e-4)
    assert len(output.visual) == len(golden.images())


def heads(model, output, batch):
    """Logits of the next tokens, and the image tokens."""
    contexts = model.image_contexts(output.hidden_BLD, batch)
    return model.text_decoder(output.hidden_BLD), model.image_tokens(*contexts)


def test_padding_and_company_change_nothing(model, read):
    _, hidden, _ = read
    batch = golden.batch()
    first = 0
    for row, num in enumerate(batch.num_images_B.tolist()):
        length = int(batch.attention_mask_BL[row].sum())
        alone = Batch(
            batch.text_ids_BL[row : row + 1, :length],
            batch.pixels_N3SS[first : first + num],
            batch.num_images_B[row : row + 1],
        )
        golden.assert_close(f"row {row}", model(alone).hidden_BLD[0], hidden[row, :length], 2e-5)
        first += num


def test_the_placeholders_must_fit_the_images(model):
    batch, length = golden.batch(), model.config.num_img_token
    num = len(batch.pixels_N3SS)
    wrong = f"{num * length} placeholders for {num - 1} images of {length} tokens"
    with pytest.raises(ValueError, match=wrong):
        model(dataclasses.replace(batch, pixels_N3SS=batch.pixels_N3SS[:-1]))


def test_names_shapes_and_types_are_the_official_ones():
    with torch.device("meta"):
        state = MMInterleaved(golden.config()).state_dict()
    official = golden.document()["state_dict"]
    assert {
        name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in state.items()
    } == official


def blocks(names):
    """Names with the indices of repeated blocks taken out: families of names."""
    return {re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names}


def test_the_published_preset_has_the_official_names_and_shapes():
    with torch.device("meta"):
        model = MMInterleaved(preset("13b"))
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert all(tensor.device.type == "meta" for tensor in model.state_dict().values())
    official = golden.document()["state_dict"]
    # The published autoencoder widens from block to block, a recorded one may not.
    ours, theirs = (
        {n for n in blocks(names) if "vae" not in n or "conv_shortcut" not in n}
        for names in (state, official)
    )
    assert ours == theirs
    assert len([n for n in state if n.endswith("llama_cross_attn.gate")]) == 10
    assert len([n for n in state if n.startswith(MMFS) and n.endswith(".pos_embed")]) == 13
    assert PUBLISHED.items() <= state.items()
    assert sum(p.numel() for p in model.mm_decoder.parameters()) > 13e9


PUBLISHED = {
    "soi_token": (1, 5120),
    "mm_decoder.embed_tokens.weight": (32002, 5120),
    "mm_decoder.layers.39.self_attn.k_proj.weight": (5120, 5120),
    "mm_decoder.layers.39.mlp.down_proj.weight": (5120, 13824),
    "mm_decoder.layers.36.llama_cross_attn.gate": (1,),
    "mm_decoder.layers.36.llama_cross_attn.norm2.weight": (1024,),
    "mm_decoder.layers.36.llama_cross_attn.attn.sampling_offsets.weight": (256, 5120),
    "mm_decoder.layers.36.llama_cross_attn.attn.attention_weights.weight": (432, 5120),
    "mm_decoder.layers.36.llama_cross_attn.attn.value_proj.weight": (1024, 1024),
    "mm_decoder.layers.36.llama_cross_attn.attn.output_proj.weight": (5120, 1024),
    "mm_decoder.layers.36.llama_cross_attn.attn.dynamic_offset_mask.weight": (5120, 5120),
    "mm_decoder.layers.36.llama_cross_attn.attn.query_relpos.weight": (50, 5120),
    "mm_decoder.layers.36.llama_cross_attn.attn.ignore_token": (1, 1, 1, 1024),
    "text_decoder.head.weight": (32002, 5120),
    "text_decoder.head_new.weight": (2, 5120),
    "context_feat_proj.weight": (5120, 5120),
    "visual_tokenizer.pos_embed": (257, 1024),
    "visual_tokenizer.proj.weight": (5120, 768),
    "visual_tokenizer.perceiver_resampler.queries": (1, 64, 768),
    "visual_tokenizer.perceiver_resampler.blip2qformer.encoder.layer.10"
    ".crossattention.attention.key.weight": (768, 1024),
    "visual_tokenizer.perceiver_resampler.blip2qformer.encoder.layer.11"
    ".intermediate_query.dense.weight": (3072, 768),
    "visual_tokenizer.encoder.vision_model.embeddings.position_embedding.weight": (257, 1024),
    "visual_tokenizer.encoder.vision_model.encoder.layers.23.mlp.fc1.weight": (4096, 1024),
    "visual_tokenizer.encoder.vision_model.adapter_interactions.3.extra_extractors.1"
    ".attn.value_proj.weight": (512, 1024),
    "visual_tokenizer.encoder.vision_model.adapter_interactions.3.injector"
    ".attn.sampling_offsets.weight": (384, 1024),
    "image_decoder.neg_prompt_embeds": (1, 77, 1024),
    "image_decoder.perceiver_resampler.blip2qformer.encoder.layer.0"
    ".crossattention.attention.key.weight": (1024, 5120),
    f"{MMFS}mmfs_down_blocks.0.pos_embed": (4096, 320),
    f"{MMFS}mmfs_down_blocks.11.pos_embed": (4096, 1280),
    f"{MMFS}mmfs_mid_block.mmfs.value_proj.weight": (1024, 1024),
    f"{MMFS}mmfs_mid_block.mmfs.attention_weights.weight": (576, 1280),
    "image_decoder.decoder.unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight": (
        320,
        1024,
    ),
    "image_decoder.decoder.vae.decoder.up_blocks.0.resnets.2.conv1.weight": (512, 512, 3, 3),
}


@pytest.mark.parametrize("components", [TEXT, IMAGE])
def test_workers_build_what_they_need(components, model):
    with torch.device("meta"):
        subset = MMInterleaved(golden.config(), components)
    whole = model.state_dict()
    expected = {name: whole[name] for name in whole if name.startswith(tuple(components))}
    subset.load_state_dict(expected, strict=True, assign=True)


def test_a_text_worker_makes_the_same_image_tokens(model, recorded, read):
    with torch.device("meta"):
        subset = MMInterleaved(golden.config(), TEXT)
    subset.load_state_dict(golden.part(model.state_dict(), ""), strict=False, assign=True)
    _, hidden, _ = read
    context_NKD, mask_NK = subset.eval().image_contexts(hidden, golden.batch())
    tokens = subset.image_tokens(context_NKD, mask_NK)
    golden.assert_close("image tokens", tokens, recorded["conditioning_gen"], 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_close(model, recorded, dtype):
    with torch.device("meta"):
        half = MMInterleaved(golden.config(), TEXT).eval()
    state = {
        name: tensor.to(serving_dtype(name, tensor.dtype, dtype))
        for name, tensor in model.state_dict().items()
    }
    half.load_state_dict(state, strict=False, assign=True)
    half.requires_grad_(False)
    output = half(golden.batch())
    logits, tokens = heads(half, output, golden.batch())
    assert output.hidden_BLD.dtype == output.visual.tokens_NTD.dtype == dtype
    assert logits.dtype == torch.float32
    relative = {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for name, ours in (
        ("text_logits", logits),
        ("conditioning_gen", tokens),
    ):
        theirs = recorded[name]
        golden.assert_close(f"{name} {dtype}", ours, theirs, relative * theirs.abs().max().item())


def test_unknown_components_are_refused():
    assert set(IMAGE) < set(ALL)
    with pytest.raises(ValueError, match="unknown components"):
        MMInterleaved(golden.config(), ["unet"])


def test_tied_embeddings_share_one_tensor():
    config = preset("tiny")
    config = dataclasses.replace(
        config, llm=dataclasses.replace(config.llm, tie_word_embeddings=True)
    )
    with torch.device("meta"):
        model = MMInterleaved(config, ["mm_decoder", "text_decoder"])
    assert model.text_decoder.head.weight is model.mm_decoder.embed_tokens.weight


def test_new_tokens_need_room_in_the_vocabulary():
    config = preset("tiny")
    config = dataclasses.replace(config, txt_vocab_size=config.llm.vocab_size)
    with pytest.raises((ValueError, ConfigError), match="new tokens"):
        MMInterleaved(config, ["text_decoder"])

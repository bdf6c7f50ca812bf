"""What the model does around its decoder, without an engine around it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from vllm.forward_context import ForwardContext, override_forward_context

from model.config.presets import preset
from model.synchronizer.geometry import Geometry
from model.vllm_plugin.cache.features import PagedImageFeatures
from model.vllm_plugin.cache.layer import TokenCacheLayer
from model.vllm_plugin.cache.metadata import StepMetadata
from model.vllm_plugin.cache.token_bytes import CLASS_WIDTH
from model.vllm_plugin.model import InterleavedForConditionalGeneration, _loaded_elsewhere

CONFIG = preset("tiny")
GEOMETRY = Geometry.of_text(CONFIG)
SPECIAL = CONFIG.special_tokens
IMAGE = [SPECIAL.soi_token_id, *[SPECIAL.image_token_id] * CONFIG.num_img_token]
IDS = [SPECIAL.bos_token_id, 5, *IMAGE, 6]
FIRST = IDS.index(SPECIAL.image_token_id)
BLOCK, WIDTH = 8, 4
CACHES = ("features.7", "classes.8", "hidden.9")


class Decoder(nn.Module):
    """Embeds a token as its id, and adds nothing."""

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids.float()[:, None].expand(-1, WIDTH).clone()

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor, _: object, embeds: torch.Tensor
    ) -> torch.Tensor:
        return embeds


@pytest.fixture
def model() -> InterleavedForConditionalGeneration:
    settings = SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.float32),
        compilation_config=SimpleNamespace(static_forward_context={}),
        device_config=SimpleNamespace(device_type="cpu"),
        additional_config={"kernel": "torch"},
    )
    made = InterleavedForConditionalGeneration.__new__(InterleavedForConditionalGeneration)
    nn.Module.__init__(made)
    made.config, made.geometry, made.block_size = CONFIG, GEOMETRY, BLOCK
    made.model, made._pending = Decoder(), None
    made.features = PagedImageFeatures(settings, CACHES[0], GEOMETRY)
    made.classes = TokenCacheLayer(settings, CACHES[1], CLASS_WIDTH)
    made.hidden_states = TokenCacheLayer(settings, CACHES[2], WIDTH)
    return made


@pytest.fixture
def step(model: InterleavedForConditionalGeneration) -> Iterator[StepMetadata]:
    """A request's whole prompt, in blocks from the last to the first."""
    number = -(-len(IDS) // BLOCK)
    for cache in (model.features, model.classes, model.hidden_states):
        cache.bind_kv_cache(torch.zeros(number, 1, BLOCK, cache.width))
    table = torch.arange(number - 1, -1, -1, dtype=torch.int32)[None]
    place = torch.arange(len(IDS))
    metadata = StepMetadata(
        num_tokens=len(IDS),
        query_start_loc=torch.tensor([0, len(IDS)], dtype=torch.int32),
        seq_lens=torch.tensor([len(IDS)], dtype=torch.int32),
        max_seq_len=len(IDS),
        block_table=table,
        slot_mapping=table[0].long()[place // BLOCK] * BLOCK + place % BLOCK,
    )
    context = ForwardContext(
        no_compile_layers={}, attn_metadata=dict.fromkeys(CACHES, metadata), slot_mapping={}
    )
    with override_forward_context(context):
        yield metadata


def image_embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of an image's placeholders, and which tokens of `IDS` these are."""
    rows = torch.randn(CONFIG.num_img_token, WIDTH + GEOMETRY.token_width)
    return rows, torch.tensor(IDS) == SPECIAL.image_token_id


def run(model: InterleavedForConditionalGeneration) -> tuple[torch.Tensor, torch.Tensor]:
    """A step with an image: its rows, and the hidden states."""
    rows, is_image = image_embeddings()
    ids = torch.tensor(IDS)
    embeds = model.embed_input_ids(ids, [rows], is_multimodal=is_image)
    return rows, model(ids, torch.arange(len(IDS)), inputs_embeds=embeds)


def test_images_are_embedded_in_place_of_their_placeholders(
    model: InterleavedForConditionalGeneration,
) -> None:
    rows, is_image = image_embeddings()
    parts = list(rows.split([1, len(rows) - 1]))
    embeds = model.embed_input_ids(torch.tensor(IDS), parts, is_multimodal=is_image)
    assert torch.equal(embeds[is_image], rows[:, :WIDTH])
    assert embeds[~is_image][:, 0].tolist() == [i for i in IDS if i != SPECIAL.image_token_id]


def test_a_step_stores_its_facts_and_then_sees_its_image(
    model: InterleavedForConditionalGeneration, step: StepMetadata
) -> None:
    rows, hidden = run(model)
    is_image = torch.tensor(IDS) == SPECIAL.image_token_id
    slots = step.slot_mapping
    assert torch.equal(model.features.rows[slots[is_image]], rows[:, WIDTH:])
    assert not model.features.rows[slots[~is_image]].any()
    assert (model.classes.rows[slots][is_image] == 1).all()
    assert torch.equal(model.hidden_states.rows[slots], hidden)
    sight = model.features.sight
    assert sight is not None
    assert sight.count_T.tolist() == [0] * FIRST + [1] * (len(IDS) - FIRST)
    assert sight.image_start_RI[0, 0] == FIRST


def test_features_are_kept_for_one_step_only(
    model: InterleavedForConditionalGeneration, step: StepMetadata
) -> None:
    run(model)
    assert model._pending is None
    rows, is_image = image_embeddings()
    model.embed_input_ids(torch.tensor(IDS), [rows], is_multimodal=is_image)
    # The engine embedded another step instead.
    embeds = model.embed_input_ids(torch.tensor(IDS))
    model.features.rows.zero_()
    model(torch.tensor(IDS), torch.arange(len(IDS)), inputs_embeds=embeds)
    assert not model.features.rows.any()


def test_measuring_memory_sees_and_stores_nothing(
    model: InterleavedForConditionalGeneration,
) -> None:
    context = ForwardContext(no_compile_layers={}, attn_metadata=None, slot_mapping={})
    with override_forward_context(context):
        _, hidden = run(model)
    assert len(hidden) == len(IDS)
    assert model.features.sight is None and model._pending is None


def test_parameters_that_vllms_loader_does_not_know_are_named() -> None:
    assert _loaded_elsewhere("visual_tokenizer.pos_proj.weight")
    assert _loaded_elsewhere("model.layers.3.llama_cross_attn.query_XD")
    assert not _loaded_elsewhere("model.layers.3.mlp.gate_up_proj.weight")
    assert not _loaded_elsewhere("lm_head.bias")

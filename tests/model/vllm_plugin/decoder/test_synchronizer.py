"""torch.compile takes the synchronizer whole: no graph break, no shape that depends on images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.forward_context import ForwardContext, override_forward_context

from model.synchronizer.geometry import Geometry
from model.synchronizer.kernels.gather import sample
from model.vllm_plugin.cache.features import PagedImageFeatures
from model.vllm_plugin.cache.plan import plan_step
from model.vllm_plugin.decoder.synchronizer import PagedSynchronizer
from tests.model.synchronizer.kernels import paged
from tests.model.vllm_plugin.cache.test_plan import BLOCK, MAX_IMAGES, SEQUENCES, paged_step

NAME = "layers.9.features"
GEOMETRY = paged.GEOMETRIES["21 vectors a token"]


pytestmark = pytest.mark.usefixtures("tracing")


def synchronizer(
    geometry: Geometry, cache_dir: Path
) -> tuple[PagedSynchronizer, PagedImageFeatures]:
    """A layer with random weights, and the cache that it reads, without an engine around them."""
    settings = SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.float32),
        compilation_config=SimpleNamespace(static_forward_context={}),
        device_config=SimpleNamespace(device_type="cpu"),
        additional_config={"cache_dir": str(cache_dir)},
    )
    with set_current_vllm_config(VllmConfig()):
        layer = PagedSynchronizer(geometry, 32, paged.value_width(geometry), 1e-5, NAME)
    weights = paged.official_names(paged.module(geometry), geometry)
    layer.load(weights | {"norm1.weight": torch.linspace(0.5, 1.5, 32)})
    return layer, PagedImageFeatures(settings, NAME, geometry)


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=pytest.mark.needs_compiler)]
)
@torch.inference_mode()
def test_synchronizer_compiles_whole(backend: str, tmp_path: Path) -> None:
    """One graph for steps of any number of tokens, whatever images they see."""
    layer, cache = synchronizer(GEOMETRY, tmp_path)
    graphs = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    context = ForwardContext(no_compile_layers={NAME: cache}, attn_metadata={}, slot_mapping={})
    for seed, num_tokens in enumerate((23, 11, 40)):
        s = paged.step(GEOMETRY, seed=seed, num_tokens=num_tokens)
        cache.bind_kv_cache(s.cache_NW)
        cache.sight = s.sight
        update_TD, residual_TD = s.query_TD, torch.randn_like(s.query_TD)
        with override_forward_context(context):
            expected = layer(update_TD.clone(), residual_TD.clone())
            ours = compiled(update_TD.clone(), residual_TD.clone())
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    if backend == "eager":  # Inductor may add guards of its own.
        assert graphs.frame_count == 1


@torch.inference_mode()
def test_padding_of_a_captured_graph_is_ignored(tmp_path: Path) -> None:
    """A step padded to a fixed number of tokens: the first ones are unchanged, the rest finite."""
    layer, cache = synchronizer(GEOMETRY, tmp_path)
    s = paged.step(GEOMETRY)
    cache.bind_kv_cache(s.cache_NW)
    cache.sight = s.sight
    padded_TD = torch.cat((s.query_TD, torch.randn(9, 32)))
    context = ForwardContext(no_compile_layers={NAME: cache}, attn_metadata={}, slot_mapping={})
    with override_forward_context(context):
        expected, _ = layer(s.query_TD.clone(), torch.zeros_like(s.query_TD))
        ours, _ = layer(padded_TD.clone(), torch.zeros_like(padded_TD))
    torch.testing.assert_close(ours[:23], expected, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(ours).all()


def test_the_operator_is_registered_completely(tmp_path: Path) -> None:
    """Shape, type and device that tracing promises are those that running gives."""
    layer, cache = synchronizer(GEOMETRY, tmp_path)
    s = paged.step(GEOMETRY)
    cache.bind_kv_cache(s.cache_NW)
    cache.sight = s.sight
    query_TX = torch.randn(23, GEOMETRY.num_predicted)
    context = ForwardContext(no_compile_layers={NAME: cache}, attn_metadata={}, slot_mapping={})
    with override_forward_context(context):
        torch.library.opcheck(
            torch.ops.mmi.sample_images.default,
            (query_TX, layer.relative_RX.detach(), NAME),
            test_utils=("test_schema", "test_faketensor"),
        )


@torch.inference_mode()
def test_reference_sampling_has_static_shapes() -> None:
    """One graph for all numbers of images in sight: their slots are padded to the maximum."""
    graphs = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(sample, backend=graphs, fullgraph=True, dynamic=False)
    numbers = GEOMETRY.num_predicted
    relative_RX = torch.randn(GEOMETRY.num_relative, numbers)
    s = paged.step(GEOMETRY)
    for most in range(GEOMETRY.max_images + 1):
        sight = dataclasses.replace(s.sight, count_T=s.sight.count_T.clamp(max=most))
        query_TX = torch.randn(23, numbers)
        ours = compiled(query_TX, relative_RX, s.cache_NW, sight, GEOMETRY)
        expected = sample(query_TX, relative_RX, s.cache_NW, sight, GEOMETRY)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    assert graphs.frame_count == 1


@torch.inference_mode()
def test_planning_has_static_shapes() -> None:
    """No number that lives on the device decides a shape, so a plan can be captured."""
    graphs = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(plan_step, backend=graphs, fullgraph=True, dynamic=False)
    lengths = [len(sequence) for sequence in SEQUENCES]
    for done in ([n - 1 for n in lengths], [n - 1 for n in lengths]):
        classes_NC, metadata, positions_T, _ = paged_step(done)
        ours = compiled(classes_NC, metadata, positions_T, MAX_IMAGES, BLOCK)
        expected = plan_step(classes_NC, metadata, positions_T, MAX_IMAGES, BLOCK)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(ours, name), value)
    assert graphs.frame_count == 1

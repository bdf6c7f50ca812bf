"""The graphs are the sampler's stages."""

from __future__ import annotations

import pytest
import torch

from model.config.schema import MMInterleavedConfig
from model.export.command import load_sampler
from model.export.graphs import Graph, condition_names, sampler_graphs
from model.image_decoder.sampler import ImageSampler
from model.image_decoder.unet.conditions import Conditions


@pytest.fixture(scope="module", params=["checkpoint", "grid"])
def loaded(request: pytest.FixtureRequest) -> tuple[ImageSampler, MMInterleavedConfig]:
    return load_sampler(request.getfixturevalue(request.param), "float32")


@pytest.fixture(scope="module")
def graphs(loaded: tuple[ImageSampler, MMInterleavedConfig]) -> dict[str, Graph]:
    return {graph.key: graph for graph in sampler_graphs(*loaded, (1, 2))}


def test_one_graph_for_each_stage_and_bucket(graphs: dict[str, Graph]) -> None:
    assert list(graphs) == ["prepare-1", "denoise-1", "decode-1", "denoise-2", "decode-2"]


@torch.no_grad()
def test_graphs_compute_the_stages(
    loaded: tuple[ImageSampler, MMInterleavedConfig], graphs: dict[str, Graph]
) -> None:
    sampler, _ = loaded
    prepare, denoise, decode = (graphs[key] for key in ("prepare-1", "denoise-2", "decode-2"))
    tensors = prepare.module(*prepare.inputs.values())
    assert len(tensors) == len(prepare.output_names) == len(condition_names(sampler))
    one = sampler.prepare(*prepare.inputs.values(), torch.ones(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(tensors, one.tensors, strict=True))
    joined = sampler.join([one, one], guided=True)
    given = tuple(denoise.inputs.values())
    assert all(torch.equal(a, b) for a, b in zip(given[3:], joined.tensors, strict=True))
    noise = denoise.module(*given)
    assert torch.equal(noise, sampler.predict(given[0], given[1], joined))
    again = Conditions.of(given[3:], sampler.negative, given[2])
    assert torch.equal(noise, sampler.predict(given[0], given[1], again))
    latents = decode.inputs["latents"]
    assert torch.equal(decode.module(latents), sampler.decode(latents))

"""A checkpoint compiles to a complete set of graphs, and only once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoint.shipped import SHIPPED
from model.config.presets import preset
from model.export.command import (
    CompileOptions,
    compile_checkpoint,
    compile_key,
    compile_sampler,
)
from model.export.manifest import Manifest
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.kernels.grid import GridSampling

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.slow
def test_every_graph_of_the_shipped_checkpoint_compiles(tmp_path: Path) -> None:
    check_compiled(SHIPPED, tmp_path, CompileOptions())


def test_every_graph_of_a_small_checkpoint_compiles(checkpoint: Path, tmp_path: Path) -> None:
    check_compiled(checkpoint, tmp_path, CompileOptions(buckets=(2,)))


def check_compiled(checkpoint: Path, directory: Path, options: CompileOptions) -> None:
    """With TensorRT-RTX, without a GPU, for all default targets in one engine each."""
    place, manifest = compile_checkpoint(checkpoint, directory, options)
    wanted = {f"{name}-{b}" for name in ("denoise", "decode") for b in options.buckets}
    assert set(manifest.graphs) == {"prepare-1"} | wanted
    for graph in manifest.graphs.values():
        assert (place / graph.file).stat().st_size == graph.num_bytes > 10_000
    assert Manifest.load(place) == manifest

    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert compile_checkpoint(checkpoint, directory, options)[0] == place
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written

    engine = place / manifest.graphs["decode-2"].file
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(ValueError, match="not what was compiled"):
        compile_checkpoint(checkpoint, directory, options)
    shutil.rmtree(place)


def test_the_key_names_everything_that_matters() -> None:
    options = CompileOptions()
    digests = {compile_key(options, "model").digest, compile_key(options, "another").digest}
    for change in (
        {"targets": ("8.9",)},
        {"precision": "bfloat16"},
        {"buckets": (1,)},
        {"backend": "onnxruntime"},
    ):
        digests.add(compile_key(dataclasses.replace(options, **change), "model").digest)
    assert len(digests) == 6


@pytest.mark.slow
def test_stable_diffusion_compiles_at_full_size(tmp_path: Path) -> None:
    """U-Net of SD 2.1 with 13 synchronizer blocks at 512 x 512, random weights, float16."""
    config = preset("13b")
    torch.manual_seed(0)
    decoder = ImageDecoder(config).eval().requires_grad_(False).half()
    decoder.decoder.vae.float()
    sampler = decoder.sampler(GridSampling())
    options = CompileOptions(targets=("8.9",), buckets=(1,), check_parity=False)
    key = compile_key(options, "random sd21")
    _, manifest = compile_sampler(sampler, config, key, tmp_path, options)
    assert manifest.graphs["denoise-1"].num_bytes > 1.5e9

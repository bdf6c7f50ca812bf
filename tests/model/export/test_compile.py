"""Exported graphs compute what PyTorch computes, and TensorRT takes every one of them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from model.checkpoint import seeded
from model.config.presets import preset
from model.export import tensorrt
from model.export.compile import (
    CompileOptions,
    compile_checkpoint,
    compile_key,
    load_sampler,
)
from model.export.manifest import Manifest, Precision, TensorSpec
from model.export.onnx import export, output_specs, read_operators, refusals
from model.export.parity import (
    ABSOLUTE_FLOAT32,
    RELATIVE_HALF,
    Parity,
    ParityError,
    compare,
    evaluate,
    onnxruntime_runner,
)
from model.export.wrappers import Graph, sampler_graphs
from tests.model.engine.jobs import small_checkpoint

OPERATORS = Path(__file__).parents[2] / "data" / "tensorrt" / "onnx_operators.json"
SHIPPED = Path(__file__).parents[3] / "deploy" / "checkpoints" / "tiny"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module", params=["float32", "float16"])
def exported(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Graph, Path]]:
    precision: Precision = request.param
    sampler, config = load_sampler(checkpoint, precision)
    directory = tmp_path_factory.mktemp(precision)
    graphs = sampler_graphs(sampler, config, (2,))
    return [(graph, export(graph, directory / f"{graph.key}.onnx")) for graph in graphs]


def test_parity_and_operators(exported: list[tuple[Graph, Path]]) -> None:
    """In ONNX Runtime; and every node is one that TensorRT lists, with its type and rank."""
    operators = read_operators(OPERATORS)
    assert [graph.key for graph, _ in exported] == ["prepare-1", "denoise-2", "decode-2"]
    for graph, path in exported:
        parity = compare(graph, onnxruntime_runner(path, graph.output_names))
        print(parity)  # noqa: T201
        parity.check()
        assert list(refusals(path, operators)) == []
        named = zip(graph.output_names, evaluate(graph), strict=True)
        assert output_specs(path) == tuple(TensorSpec.of(name, tensor) for name, tensor in named)
    kinds = {node.op_type for node in onnx.load(exported[1][1]).graph.node}
    assert "GridSample" in kinds


def test_parity_limits() -> None:
    Parity("graph", ABSOLUTE_FLOAT32, 1.0, half=False).check()
    Parity("graph", 1.0, RELATIVE_HALF, half=True).check()
    with pytest.raises(ParityError, match="graph"):
        Parity("graph", 2 * ABSOLUTE_FLOAT32, 0.0, half=False).check()
    with pytest.raises(ParityError):
        Parity("graph", 0.0, float("inf"), half=True).check()


def single_node_model(path: Path, operator: str, shape: tuple[int, ...]) -> Path:
    """An ONNX file with one node."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(operator, ["x"], ["y"], name="the_node")
    graph = helper.make_graph([node], "graph", [given], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_refused_operator_is_named(tmp_path: Path) -> None:
    path = single_node_model(tmp_path / "refused.onnx", "Bernoulli", (2, 2))
    found = list(refusals(path, read_operators(OPERATORS)))
    assert [(refusal.node, refusal.operator) for refusal in found] == [("the_node", "Bernoulli")]
    with pytest.raises(tensorrt.BuildError, match="Bernoulli"):
        tensorrt.build(path, "rtx", ["SM89"])


def test_targets() -> None:
    assert tensorrt.parse_targets("rtx", ["8.6", "12.0"]) == ["SM86", "SM120"]
    with pytest.raises(ValueError, match=r"9\.0 is not a target"):
        tensorrt.parse_targets("rtx", ["9.0"])
    with pytest.raises(ValueError, match="no targets"):
        tensorrt.parse_targets("standard", ["8.6"])


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt._MODULES, "rtx", ("no_such_module", "nor_this"))
    with pytest.raises(tensorrt.LibraryMissing, match="no-such-module"):
        tensorrt.library("rtx")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint, or a seeded one of its sizes."""
    if (SHIPPED / "config.json").exists():
        return SHIPPED
    return seeded.create("tiny", tmp_path_factory.mktemp("tiny") / "model")


def test_every_graph_of_the_shipped_checkpoint_compiles(tiny: Path, tmp_path: Path) -> None:
    """With TensorRT-RTX, without a GPU, for all default targets in one engine each."""
    options = CompileOptions()
    place, manifest = compile_checkpoint(tiny, tmp_path, options)
    wanted = {f"{name}-{b}" for name in ("denoise", "decode") for b in options.buckets}
    assert set(manifest.graphs) == {"prepare-1"} | wanted
    for graph in manifest.graphs.values():
        assert (place / graph.file).stat().st_size == graph.num_bytes > 10_000
    assert Manifest.load(place) == manifest

    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert compile_checkpoint(tiny, tmp_path, options)[0] == place
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written

    engine = place / manifest.graphs["decode-1"].file
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(ValueError, match="not what was compiled"):
        compile_checkpoint(tiny, tmp_path, options)
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
    from model.export.compile import compile_sampler
    from model.image_decoder.image_decoder import ImageDecoder
    from model.synchronizer.map_sampling import GridSampling

    config = preset("13b")
    torch.manual_seed(0)
    decoder = ImageDecoder(config).eval().requires_grad_(False).half()
    decoder.decoder.vae.float()
    sampler = decoder.sampler(GridSampling())
    options = CompileOptions(targets=("8.9",), buckets=(1,), check_parity=False)
    key = compile_key(options, "random sd21")
    _, manifest = compile_sampler(sampler, config, key, tmp_path, options)
    assert manifest.graphs["denoise-1"].num_bytes > 1.5e9

"""`make test-deploy`: the workers' images for GPUs are built, and hold what they need on one.

No driver is here: what they compute on a card is for `make test-gpu`. Takes about 25 GB of disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.base_images import hand_on_registry, make_base_images
from tests.deploy.engine import docker_engine
from tests.deploy.stack import ROOT, docker, run

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(5400)]

# Triton builds such a library, with Python's headers, for every kernel.
_LOOK = """
import importlib.metadata, json, pathlib, subprocess, sysconfig, torch
source, library = pathlib.Path("/tmp/launcher.c"), "/tmp/launcher.so"
source.write_text("#include <Python.h>\\nPyObject *launcher(void) { Py_RETURN_NONE; }\\n")
include = sysconfig.get_path("include")
subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", library], check=True)
names = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
plugins = [e.value for e in importlib.metadata.entry_points(group="vllm.general_plugins")]
print(json.dumps({"cuda": torch.version.cuda, "names": sorted(names), "plugins": plugins}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh clone, beside an engine."""
    work = tmp_path_factory.mktemp("gpu-images")
    with docker_engine(work / "dockerd.log"):
        make_base_images(work)
        run("git", "clone", "--quiet", f"file://{ROOT}", work / "checkout")
        hand_on_registry(work / "checkout" / "deploy" / "pip")
        yield work / "checkout"


@pytest.mark.parametrize("target", ["image-worker", "text-worker"])
def test_the_image_holds_what_a_card_needs(checkout: Path, target: str) -> None:
    image = f"mm-interleaved/{target}:test-gpu"
    command = ("build", "--build-arg", "VARIANT=gpu", "--target", target, "--tag", image, checkout)
    docker(*command, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    try:
        mounted = ("--rm", "--read-only", "--tmpfs", "/tmp:exec", "--tmpfs", "/cache")
        output = docker("run", *mounted, "--entrypoint", "python", image, "-c", _LOOK)
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        names = set(found["names"])
        assert found["cuda"].startswith("13")
        assert names >= {"triton", "nvidia-cublas", "tensorrt-rtx-cu13-libs"}
        assert ("vllm" in names) == (target == "text-worker")
        assert "model.vllm_plugin:register" in found["plugins"]
        assert "image-worker" in docker("run", *mounted, image, "--help")
    finally:
        docker("rmi", image)

"""The Dockerfile: which changes rebuild what, and what the images do not hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = {
    name: body
    for name, body in re.findall(r"^FROM .*? AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
}
PACKAGES = [name for name in STAGES if name.endswith("-packages")]


@pytest.mark.parametrize("stage", ["builder", *PACKAGES])
def test_packages_are_installed_apart_from_the_source(stage: str) -> None:
    """A source change leaves these layers as they are."""
    read = re.findall(r"^COPY (?!--from)(.*) \S+$", STAGES[stage], re.M)
    read += re.findall(r"source=(\S+?),", STAGES[stage])
    assert read
    assert all(
        path.startswith(("deploy/pip", "deploy/requirements/", "deploy/installer.py"))
        for path in read
    )


@pytest.mark.parametrize("stage", ["gateway", "image-worker", "text-worker"])
def test_the_source_is_the_last_layer(stage: str) -> None:
    layers = re.findall(r"^(?:COPY|RUN|ADD) .*$", STAGES[stage], re.M)
    assert layers[-1] == "COPY --from=app /app /app"
    assert "USER 10001:10001" in STAGES[stage]


def test_only_the_variant_for_gpus_has_a_compiler() -> None:
    final = "".join(
        STAGES[name] for name in ("base", "gateway", "worker", "image-worker", "text-worker")
    )
    (condition,) = re.findall(r"if \[ \"\$\{VARIANT\}\" = gpu \]; then.*?\bfi\b", final, re.S)
    assert "gcc" in condition and "python3-dev" in condition
    assert not re.search("gcc|g\\+\\+|clang|build-essential", final.replace(condition, ""))


def test_every_role_has_an_init_process() -> None:
    """Kubernetes has none, and a first process without handlers outlives SIGTERM."""
    assert " install --yes --no-install-recommends tini " in STAGES["base"]
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)
    assert json.loads(entry) == ["tini", "-s", "--", "python", "-m", "service"]


def test_every_variant_has_its_locks() -> None:
    for variant in ("cpu", "gpu"):
        for name in ("worker", "image-worker"):
            assert (ROOT / "deploy" / "requirements" / f"{name}-{variant}.txt").is_file()


def test_the_context_holds_what_the_stages_copy_and_no_more() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    included = {line[1:] for line in allowed if line.startswith("!")}
    sources: set[str] = set()
    for body in STAGES.values():
        for words in re.findall(r"^COPY (?!--from)(.*)$", body, re.M):
            sources |= {path.removeprefix("./") for path in words.split()[:-1]}
        sources |= set(re.findall(r"source=(\S+?),", body))
    for source in sources:
        assert any(source == path or source.startswith(f"{path}/") for path in included), source
    assert all(any(source.startswith(path) for source in sources) for path in included)

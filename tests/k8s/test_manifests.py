"""Every overlay renders, fits its schemas, is hardened, and says the same as the code."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from service.broker.keys import GROUP, Keyspace
from service.cli import main
from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
KEDA = ROOT / "tests" / "data" / "keda"
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
DEPLOYMENTS = ("gateway", "text-worker", "image-worker")

Document = dict[str, Any]


def sources() -> list[Document]:
    """All documents as they are written, without kustomize."""
    paths = [
        *(ROOT / "k8s" / "base").glob("*.yaml"),
        *(ROOT / "k8s" / "components").rglob("*.yaml"),
    ]
    texts = [path.read_text() for path in paths if path.name != "kustomization.yaml"]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def render(overlay: str) -> list[Document]:
    """An overlay through kustomize."""
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, check=True).stdout
    return list(yaml.safe_load_all(text))


@functools.cache
def documents(overlay: str) -> list[Document]:
    """An overlay, or where kubectl is missing at least what it is made of."""
    return render(overlay) if shutil.which("kubectl") else sources()


def pods(overlay: str) -> list[Document]:
    found = [d for d in documents(overlay) if d["kind"] in ("Deployment", "StatefulSet")]
    assert len(found) == 4
    return found


def keda_schema(kind: str) -> Document:
    crd = yaml.safe_load((KEDA / f"keda.sh_{kind.lower()}s.yaml").read_text())
    schema: Document = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def forbid_unknown(schema: Any) -> None:
    """Have a schema refuse fields that it does not name, as the API server would drop them."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            forbid_unknown(value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_builtin_kinds_are_valid(overlay: str) -> None:
    for document in documents(overlay):
        if not document["apiVersion"].startswith("keda.sh"):
            kubernetes_validate.validate(document, "1.32", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_kinds_are_valid(overlay: str) -> None:
    keda = [d for d in documents(overlay) if d["apiVersion"].startswith("keda.sh")]
    assert {d["kind"] for d in keda} == {"ScaledObject", "TriggerAuthentication"}
    for document in keda:
        schema = keda_schema(document["kind"])
        # metadata is the API server's own type.
        schema["properties"]["metadata"] = {"type": "object"}
        forbid_unknown({"properties": {"spec": schema["properties"]["spec"]}})
        jsonschema.validate(document, schema)


def check_triggers(document: Document, num_partitions: int) -> None:
    """Queued and running tasks of every partition and priority are in the formula."""
    scalers = json.loads((KEDA / "scalers-schema.json").read_text())["scalers"]
    known = next(s for s in scalers if s["type"] == "redis-streams")["parameters"]
    names = {parameter["name"] for parameter in known}
    stage = document["spec"]["scaleTargetRef"]["name"].removesuffix("-worker")
    watched: dict[str, set[str]] = {}
    for trigger in document["spec"]["triggers"]:
        metadata = trigger["metadata"]
        assert set(metadata) <= names
        assert metadata["consumerGroup"] == GROUP
        mode = {"lagCount", "pendingEntriesCount"} & set(metadata)
        watched.setdefault(metadata["stream"], set()).update(mode)
    both = {"lagCount", "pendingEntriesCount"}
    assert watched == dict.fromkeys(Keyspace(num_partitions=num_partitions).all_tasks(stage), both)
    modifiers = document["spec"]["advanced"]["scalingModifiers"]
    formula = modifiers["formula"].split(" + ")
    assert formula == [trigger["name"] for trigger in document["spec"]["triggers"]]
    # As expr-lang, in which KEDA evaluates the formula, names its variables.
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in formula)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_triggers_see_the_streams_of_every_configured_partition(overlay: str) -> None:
    config = next(d for d in documents(overlay) if d["metadata"]["name"] == "mmi-config")
    num_partitions = int(config["data"]["MMI_NUM_PARTITIONS"])
    scaled = [d for d in documents(overlay) if d["kind"] == "ScaledObject"]
    assert len(scaled) == 2
    for document in scaled:
        check_triggers(document, num_partitions)


@pytest.mark.parametrize("num_partitions", [1, 3])
def test_triggers_are_generated(num_partitions: int, tmp_path: Path) -> None:
    assert main(["autoscaling", "--partitions", str(num_partitions), "--out", str(tmp_path)]) == 0
    for stage in ("text", "image"):
        text = (tmp_path / f"{stage}-worker.yaml").read_text()
        check_triggers(yaml.safe_load(text), num_partitions)
        schema = keda_schema("ScaledObject")
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(yaml.safe_load(text), schema)
        if num_partitions == 1:
            committed = ROOT / "k8s" / "components" / "autoscaling" / f"{stage}-worker.yaml"
            assert committed.read_text() == text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_hardened(overlay: str) -> None:
    for document in pods(overlay):
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"livenessProbe", "readinessProbe"} <= set(container)
            assert "memory" in container["resources"]["limits"]
            assert ":latest" not in container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_environment_variables_are_settings(overlay: str) -> None:
    settings = (GatewaySettings, TextWorkerSettings, ImageWorkerSettings)
    known = {f"MMI_{field.upper()}" for kind in settings for field in kind.model_fields}
    known |= {"HOME", "REDIS_PASSWORD"}
    config = next(d for d in documents(overlay) if d["metadata"]["name"] == "mmi-config")
    used = set(config["data"])
    for document in pods(overlay):
        for container in document["spec"]["template"]["spec"]["containers"]:
            used |= {variable["name"] for variable in container.get("env", ())}
    assert used <= known


def test_grace_is_longer_than_the_drain() -> None:
    for document in sources():
        if document["kind"] == "Deployment":
            grace = document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            assert grace > GatewaySettings.model_fields["drain_s"].default + 10
            assert grace > TextWorkerSettings.model_fields["drain_s"].default + 10


def test_redis_is_configured_as_outside_of_kubernetes() -> None:
    config = next(d for d in sources() if d["metadata"]["name"] == "redis-config")
    assert config["data"]["redis.conf"] == (ROOT / "deploy" / "redis.conf").read_text()


def test_compose_file_builds_every_target() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name in DEPLOYMENTS:
        assert services[name]["build"]["target"] == name
        assert f" AS {name}\n" in dockerfile
        assert services[name]["read_only"] is True


def test_dashboard_uses_metrics_that_exist() -> None:
    from service import metrics

    exported = {
        sample
        for value in vars(metrics).values()
        if isinstance(value, MetricWrapperBase)
        for family in value.describe()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    dashboard = json.loads((ROOT / "deploy" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            words = target["expr"].replace("(", " ").replace("[", " ").replace(")", " ").split()
            assert {word for word in words if word.startswith("mmi_")} <= exported

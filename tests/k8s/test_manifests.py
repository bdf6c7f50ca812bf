"""Every overlay and component renders, fits its schemas, is hardened, and agrees with the code."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings

from service.broker.keys import GROUP, Keyspace
from service.cli import main
from service.commands.autoscaling import AWAKE_SHARE, SCALERS
from service.commands.autoscaling import COMPONENTS as COMPONENT_OF
from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
KEDA = ROOT / "tests" / "data" / "keda"
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (ROOT / "k8s" / "components").iterdir())
VERSIONS = ("1.32", "1.34", "1.36")
# Kinds of operators whose definitions are not here. MMI_CRDS names a directory of CustomResource-
# Definitions, as `kubectl get crd --output yaml` writes them; then these kinds are checked too.
FOREIGN_GROUPS = {
    "external-secrets.io",
    "gateway.networking.k8s.io",
    "leaderworkerset.x-k8s.io",
    "monitoring.coreos.com",
}
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
DEPLOYMENTS = ("gateway", "text-worker", "image-worker")

Document = dict[str, Any]

pytestmark = pytest.mark.needs_kubectl


def render(directory: Path) -> list[Document]:
    """What kustomize makes of a directory."""
    command = ["kubectl", "kustomize", str(directory)]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@functools.cache
def documents(overlay: str) -> list[Document]:
    return render(ROOT / "k8s" / "overlays" / overlay)


@functools.cache
def combined(*components: str) -> list[Document]:
    """The base with components, as an overlay of an operator's own would have it."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "somewhere",
        "resources": ["../../k8s/base"],
        "components": [f"../../k8s/components/{name}" for name in components],
    }
    parent = ROOT / "out"
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(Path(directory))


def pod_specs(rendered: list[Document]) -> dict[str, Document]:
    """From each kind that makes pods, with its name, to the pod's specification."""
    specs = {}
    for document in rendered:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if document["kind"] == "LeaderWorkerSet":
            template = spec["leaderWorkerTemplate"]["workerTemplate"]
            specs[f"LeaderWorkerSet/{document['metadata']['name']}"] = template["spec"]
        if document["kind"] in ("CronJob", "Deployment", "Job", "StatefulSet"):
            specs[f"{document['kind']}/{document['metadata']['name']}"] = spec["template"]["spec"]
    return specs


def named(rendered: list[Document], kind: str, name: str) -> Document:
    found = [d for d in rendered if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, (kind, name)
    return found[0]


def config_map(rendered: list[Document], name: str) -> Document:
    """A generated ConfigMap, whose name ends in a hash."""
    found = [
        d
        for d in rendered
        if d["kind"] == "ConfigMap"
        and re.fullmatch(rf"{name}-[a-z0-9]{{10}}", d["metadata"]["name"])
    ]
    assert len(found) == 1, name
    return found[0]


@functools.cache
def definitions() -> dict[tuple[str, str], Document]:
    """Strict schemas of custom kinds, by apiVersion and kind: KEDA's, and those in MMI_CRDS."""
    schemas = {}
    folders = [KEDA, *map(Path, filter(None, [os.environ.get("MMI_CRDS")]))]
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        for crd in definitions_in(path):
            for version in crd["spec"]["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                # metadata is the API server's own type.
                schema["properties"]["metadata"] = {"type": "object"}
                forbid_unknown({"properties": {"spec": schema["properties"]["spec"]}})
                names = crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"]
                schemas[f"{names[0]}/{names[1]}", names[2]] = schema
    return schemas


def definitions_in(path: Path) -> list[Document]:
    found = yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)
    items = (document.get("items", [document]) for document in found if document)
    return [item for some in items for item in some if item["kind"] == "CustomResourceDefinition"]


def forbid_unknown(schema: Any) -> None:
    """Have a schema refuse fields that it does not name, as the API server would drop them."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            del schema["pattern"]  # Go's regular expressions, not Python's
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            forbid_unknown(value)


@functools.cache
def check_built_in(document: str, version: str) -> None:
    """Each document once: the components share those of the base, and a check takes a second."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


def check_schemas(rendered: list[Document], version: str) -> None:
    """Built-in kinds against Kubernetes, custom ones against the definitions that are here."""
    for document in rendered:
        group = document["apiVersion"].partition("/")[0]
        schema = definitions().get((document["apiVersion"], document["kind"]))
        if schema is not None:
            jsonschema.Draft202012Validator(schema).validate(document)
        elif group not in FOREIGN_GROUPS or "MMI_CRDS" in os.environ:
            check_built_in(json.dumps(document), version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay: str, version: str) -> None:
    check_schemas(documents(overlay), version)


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_are_valid(component: str) -> None:
    needed = {"redis-tls": ("autoscaling",)}.get(component, ())
    rendered = combined(*needed, component)
    version = "1.33" if component == "checkpoint-image" else VERSIONS[0]
    check_schemas(rendered, version)
    assert rendered != combined()


COMBINATIONS = [
    ("external-redis", "autoscaling", "network-policies", "network-policies-external-redis"),
    ("external-redis", "autoscaling-sentinel", "redis-tls", "network-policies"),
    ("external-redis", "autoscaling-cluster", "redis-tls", "monitoring"),
    ("autoscaling", "checkpoint-claim", "checkpoint-job", "cache-claim", "tensorrt-job"),
    ("autoscaling", "scale-down-idlest", "network-policies", "network-policies-api-server"),
    ("multi-host", "scale-down-idlest", "network-policies", "network-policies-multi-host"),
    ("autoscaling", "checkpoint-image", "user-namespaces", "priority-classes", "http-route"),
]


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_components_go_together(components: tuple[str, ...]) -> None:
    rendered = combined(*components)
    check_schemas(rendered, "1.33")
    names = [d["metadata"]["name"] for d in rendered if d["kind"] == "StatefulSet"]
    assert names == ([] if "external-redis" in components else ["redis"])


@pytest.mark.parametrize("component", COMPONENTS)
def test_policies_isolate_pods_only_where_an_operator_asks_for_them(component: str) -> None:
    """A policy that allows one thing forbids its pods all others."""
    kinds = {document["kind"] for document in combined(component)}
    assert ("NetworkPolicy" in kinds) == component.startswith("network-policies")


def check_triggers(document: Document, num_partitions: int) -> None:
    """Queued and running tasks of every partition and priority are in the formula."""
    scalers = json.loads((KEDA / "scalers-schema.json").read_text())["scalers"]
    kind = document["spec"]["triggers"][0]["type"]
    known = next(s for s in scalers if s["type"] == kind)["parameters"]
    names = {parameter["name"] for parameter in known}
    stage = document["spec"]["scaleTargetRef"]["name"].removesuffix("-worker")
    watched: dict[str, set[str]] = {}
    for trigger in document["spec"]["triggers"]:
        metadata = trigger["metadata"]
        assert set(metadata) <= names
        assert metadata["consumerGroup"] == GROUP
        mode = {"lagCount", "pendingEntriesCount"} & set(metadata)
        watched.setdefault(metadata["stream"], set()).update(mode)
        assert "address" not in metadata  # it comes from the secret
    both = {"lagCount", "pendingEntriesCount"}
    keys = Keyspace(num_partitions=num_partitions)
    stages = {"text": ("text", "image"), "image": ("image",)}[stage]
    assert watched == dict.fromkeys([key for s in stages for key in keys.all_tasks(s)], both)
    formula = document["spec"]["advanced"]["scalingModifiers"]["formula"]
    # As expr-lang, in which KEDA evaluates the formula, names its variables.
    names = re.findall("[a-z][a-z0-9_]*", formula)
    assert names == [trigger["name"] for trigger in document["spec"]["triggers"]]
    own = [name for name in names if not name.startswith("image_")]
    everything = " + ".join(own)
    if stage == "text":  # Images in progress keep one text worker, and no more.
        others = " + ".join(f"image_{name}" for name in own)
        everything += f" + {AWAKE_SHARE} * ({others})"
    assert formula == everything


SCALED = sorted({*OVERLAYS} - {"laptop"})


@pytest.mark.parametrize("overlay", SCALED)
def test_triggers_see_the_streams_of_every_configured_partition(overlay: str) -> None:
    config = config_map(documents(overlay), "mmi-config")
    num_partitions = int(config["data"]["MMI_NUM_PARTITIONS"])
    scaled = [d for d in documents(overlay) if d["kind"] == "ScaledObject"]
    assert len(scaled) == 2
    for document in scaled:
        check_triggers(document, num_partitions)


@pytest.mark.parametrize(("redis", "component"), COMPONENT_OF.items())
def test_the_authentication_has_what_each_scaler_needs(redis: str, component: str) -> None:
    rendered = combined(component)
    authentication = named(rendered, "TriggerAuthentication", "mmi-redis")
    given = {target["parameter"] for target in authentication["spec"]["secretTargetRef"]}
    needed = {
        "standalone": {"address", "password"},
        "sentinel": {"addresses", "password", "sentinelMaster"},
        "cluster": {"addresses", "password"},
    }
    assert given >= needed[redis]
    scalers = json.loads((KEDA / "scalers-schema.json").read_text())["scalers"]
    known = next(s for s in scalers if s["type"] == SCALERS[redis])["parameters"]
    accepted = {p["name"] for p in known if p.get("triggerAuthenticationVariableReadable")}
    assert given <= accepted


@pytest.mark.parametrize("redis", SCALERS)
@pytest.mark.parametrize("num_partitions", [1, 3])
def test_triggers_are_generated(redis: str, num_partitions: int, tmp_path: Path) -> None:
    arguments = ["--partitions", str(num_partitions), "--redis", redis, "--out", str(tmp_path)]
    assert main(["autoscaling", *arguments]) == 0
    for stage in ("text", "image"):
        text = (tmp_path / f"{stage}-worker.yaml").read_text()
        check_triggers(yaml.safe_load(text), num_partitions)
        check_schemas([yaml.safe_load(text)], VERSIONS[0])
        if num_partitions == 1:
            directory = ROOT / "k8s" / "components" / COMPONENT_OF[redis]
            assert (directory / f"{stage}-worker.yaml").read_text() == text


def test_several_hosts_run_one_model() -> None:
    """The pods are those of the overlay's text worker; their ranks find each other."""
    alone, rendered = combined("autoscaling"), combined("autoscaling", "multi-host")
    pod = pod_specs(rendered)["LeaderWorkerSet/text-worker"]
    expected = copy.deepcopy(pod_specs(alone)["Deployment/text-worker"])
    assert "Deployment/text-worker" not in pod_specs(rendered)
    [container], [wanted] = pod["containers"], expected["containers"]
    own = {
        variable["name"]: variable["value"] for variable in container["env"][len(wanted["env"]) :]
    }
    assert own == {
        "MMI_TENSOR_PARALLEL_SIZE": "2",
        "MMI_NUM_HOSTS": "$(LWS_GROUP_SIZE)",
        "MMI_HOST_RANK": "$(LWS_WORKER_INDEX)",
        "MMI_LEADER_ADDRESS": "$(LWS_LEADER_ADDRESS):29501",
    }
    assert set(own) <= fields(TextWorkerSettings)
    del container["env"][len(wanted["env"]) :]
    assert pod == expected
    scaled = named(rendered, "ScaledObject", "text-worker")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("LeaderWorkerSet", "text-worker")
    assert named(rendered, "LeaderWorkerSet", "text-worker")["metadata"]["namespace"] == "somewhere"


EVERYTHING = (
    "multi-host",
    "checkpoint-job",
    "tensorrt-job",
    "redis-backup",
    "cache-claim",
    "checkpoint-claim",
)


@pytest.mark.parametrize("overlay", [*OVERLAYS, None])
def test_pods_are_hardened(overlay: str | None) -> None:
    specs = pod_specs(documents(overlay) if overlay else combined(*EVERYTHING))
    assert len(specs) >= 4
    for pod in specs.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "restartPolicy" in pod or {"livenessProbe", "readinessProbe"} <= set(container)
            assert "memory" in container["resources"]["limits"]
            assert ":latest" not in container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_environment_variables_are_settings_of_their_role(overlay: str) -> None:
    kinds = {
        "gateway": GatewaySettings,
        "text-worker": TextWorkerSettings,
        "image-worker": ImageWorkerSettings,
    }
    known = {name: fields(kind) for name, kind in kinds.items()}
    shared = set(config_map(documents(overlay), "mmi-config")["data"])
    assert shared <= set.union(*known.values())
    for name in DEPLOYMENTS:
        pod = pod_specs(documents(overlay))[f"Deployment/{name}"]
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {
                "configMapRef": {
                    "name": config_map(documents(overlay), "mmi-config")["metadata"]["name"]
                }
            }
        ]
        used = {variable["name"] for variable in container["env"]}
        assert used <= known[name] | {"OMP_NUM_THREADS"}
        assert "MMI_REDIS_URL" in used


def test_the_gateway_of_prod_has_keys() -> None:
    (container,) = pod_specs(documents("prod"))["Deployment/gateway"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert "MMI_AUTH" not in variables  # `keys` is the default
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert variables["MMI_API_KEYS_FILE"] == f"{mounts['keys']}/keys.json"


def fields(kind: type[BaseSettings]) -> set[str]:
    return {f"MMI_{field.upper()}" for field in kind.model_fields}


@pytest.mark.parametrize("overlay", SCALED)
def test_no_manifest_sets_replicas_that_an_autoscaler_sets(overlay: str) -> None:
    scaled = {
        d["spec"]["scaleTargetRef"]["name"]
        for d in documents(overlay)
        if d["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    assert scaled == set(DEPLOYMENTS)
    for name in scaled:
        assert "replicas" not in named(documents(overlay), "Deployment", name)["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_overlay_alone_names_the_namespace(overlay: str) -> None:
    sources = [
        path
        for path in (ROOT / "k8s").rglob("*")
        if path.is_file() and "mm-interleaved.svc" in path.read_text()
    ]
    assert sources == []
    directory = ROOT / "k8s" / "overlays" / overlay
    namespace = yaml.safe_load((directory / "kustomization.yaml").read_text())["namespace"]
    assert named(documents(overlay), "Namespace", namespace)
    for document in documents(overlay):
        if document["kind"] not in CLUSTER_WIDE:
            assert document["metadata"]["namespace"] == namespace
        if document["kind"] == "Secret" and document["metadata"]["name"] == "mmi-redis":
            assert document["stringData"]["address"] == f"redis.{namespace}.svc:6379"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_changed_setting_rolls_the_pods_that_read_it(overlay: str) -> None:
    name = config_map(documents(overlay), "redis-config")["metadata"]["name"]
    redis = pod_specs(documents(overlay))["StatefulSet/redis"]
    assert {"name": "config", "configMap": {"name": name}} in redis["volumes"]


def test_threads_follow_the_cpu_request() -> None:
    for name in ("text-worker", "image-worker"):
        (container,) = pod_specs(documents("prod"))[f"Deployment/{name}"]["containers"]
        threads = next(v for v in container["env"] if v["name"] == "OMP_NUM_THREADS")
        assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu"}}


def test_the_laptop_fits_into_four_gibibytes() -> None:
    kinds = {document["kind"] for document in documents("laptop")}
    assert not kinds & {"ScaledObject", "TriggerAuthentication", "HorizontalPodAutoscaler"}
    limits = [
        in_mib(container["resources"]["limits"]["memory"])
        for pod in pod_specs(documents("laptop")).values()
        for container in pod["containers"]
    ]
    assert len(limits) == 4
    assert sum(limits) <= 4096


def in_mib(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def test_grace_is_longer_than_the_drain() -> None:
    for name in DEPLOYMENTS:
        grace = pod_specs(combined())[f"Deployment/{name}"]["terminationGracePeriodSeconds"]
        assert grace > GatewaySettings.model_fields["drain_s"].default + 10
        assert grace > TextWorkerSettings.model_fields["drain_s"].default + 10


def test_redis_is_configured_as_outside_of_kubernetes() -> None:
    config = config_map(combined(), "redis-config")["data"]["redis.conf"]
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"][
        "volumes"
    ]
    assert "./k8s/base/redis.conf:/etc/redis.conf:ro" in volumes
    laptop = config_map(documents("laptop"), "redis-config")["data"]["redis.conf"]
    differing = set(config.splitlines()) ^ set(laptop.splitlines())
    assert {line.split()[0] for line in differing} == {"maxmemory"}


def test_cluster_and_compose_have_the_same_alerts() -> None:
    rules = named(combined("monitoring"), "PrometheusRule", "mmi")
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())

"""docker-compose.yml: built from the Dockerfile, hardened, bounded, with settings that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = {
    "gateway": GatewaySettings,
    "text-worker": TextWorkerSettings,
    "image-worker": ImageWorkerSettings,
    "text-worker-gpu": TextWorkerSettings,
    "image-worker-gpu": ImageWorkerSettings,
}


@pytest.mark.parametrize("name", ROLES)
def test_every_role_is_built_from_its_target(name: str) -> None:
    target, variant = name.removesuffix("-gpu"), "gpu" if name.endswith("-gpu") else ""
    build = SERVICES[name]["build"]
    assert build["target"] == target
    assert f" AS {target}\n" in (ROOT / "Dockerfile").read_text()
    assert build.get("args", {}).get("VARIANT", "") == variant
    assert SERVICES[name]["image"].startswith(f"mm-interleaved/{target}:")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]


@pytest.mark.parametrize("name", ROLES)
def test_environment_variables_are_settings_of_their_role(name: str) -> None:
    fields = ROLES[name].model_fields
    known = {f"MMI_{field.upper()}" for field in fields}
    for field in fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            known |= {str(choice) for choice in field.validation_alias.choices}
    used = SERVICES[name]["environment"].keys()
    assert used <= known | {"PROBE"}
    assert "MMI_REDIS_URL" in used


def test_both_workers_of_a_card_know_the_number_of_images() -> None:
    """Compose gives both the first card."""
    names = ("text-worker-gpu", "image-worker-gpu")
    given = {SERVICES[name]["environment"]["MMI_IMAGE_CONCURRENCY"] for name in names}
    assert len(given) == 1


def test_the_workers_serve_the_model_of_the_readme() -> None:
    for name in ("text-worker", "image-worker"):
        checkpoint = SERVICES[name]["environment"]["MMI_CHECKPOINT"]
        assert checkpoint == "${MMI_CHECKPOINT:-/app/deploy/checkpoints/storybook}"
    assert (ROOT / "deploy" / "checkpoints" / "storybook" / "config.json").is_file()


def test_the_gateway_can_use_keys() -> None:
    gateway = SERVICES["gateway"]
    assert gateway["secrets"] == ["api-keys"]
    assert gateway["environment"]["MMI_API_KEYS_FILE"] == "/run/secrets/api-keys"
    default = COMPOSE["secrets"]["api-keys"]["file"].partition(":-")[2].removesuffix("}")
    assert (ROOT / default).is_file()


def test_redis_may_not_exceed_its_container() -> None:
    configuration = (ROOT / "k8s" / "base" / "redis.conf").read_text()
    assert "maxmemory 3gb" in configuration
    assert SERVICES["redis"]["mem_limit"] == "4g"

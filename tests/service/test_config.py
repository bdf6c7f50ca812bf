"""Settings come from the environment, in one module."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service import config
from service.config import (
    GatewaySettings,
    ImageWorkerSettings,
    LocalSettings,
    RedisSettings,
    TextWorkerSettings,
    child_environment,
)

SERVICE = Path(config.__file__).parent


def test_no_other_module_reads_the_environment() -> None:
    words = ("environ", "getenv")
    readers = {
        str(path.relative_to(SERVICE))
        for path in SERVICE.rglob("*.py")
        for line in path.read_text().splitlines()
        if any(word in line.replace("environment", "") for word in words)
    }

    assert readers == {"config.py"}


def test_a_childs_environment_is_ours_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMI_PORT", "1")
    monkeypatch.setenv("MMI_HOST", "::1")
    made = child_environment({"MMI_PORT": "2"})

    assert (made["MMI_PORT"], made["MMI_HOST"]) == ("2", "::1")


def test_the_address_of_redis_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMI_REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://second/0")
    assert LocalSettings().redis_url == "redis://second/0"
    assert RedisSettings().redis_url.get_secret_value() == "redis://second/0"
    monkeypatch.setenv("MMI_REDIS_URL", "redis://first/0")
    assert LocalSettings().redis_url == "redis://first/0"
    assert RedisSettings().redis_url.get_secret_value() == "redis://first/0"


def test_empty_means_unset_for_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name in ("MMI_REDIS_URL", "MMI_CHECKPOINT", "MMI_API_KEY"):
        monkeypatch.setenv(name, "")
    settings = LocalSettings()

    assert (settings.redis_url, settings.checkpoint, settings.api_key) == ("", None, None)


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMI_ALLOWED_HOSTS", "a.example, b.example,")
    assert GatewaySettings().allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("name", "value"), [("MMI_PORT", "70000"), ("MMI_AUTH", "maybe"), ("MMI_PING_S", "60")]
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        GatewaySettings()


def test_both_workers_know_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text worker's share of a card leaves room for as many as the image worker draws."""
    assert TextWorkerSettings().image_concurrency == ImageWorkerSettings().concurrency == 4
    monkeypatch.setenv("MMI_CONCURRENCY", "2")
    assert (TextWorkerSettings().concurrency, ImageWorkerSettings().concurrency) == (2, 2)
    monkeypatch.setenv("MMI_IMAGE_CONCURRENCY", "7")
    assert TextWorkerSettings().image_concurrency == ImageWorkerSettings().concurrency == 7
    assert TextWorkerSettings().concurrency == 2


def test_a_cluster_cannot_wait_for_its_disk() -> None:
    with pytest.raises(ValidationError, match="wait_aof"):
        RedisSettings(redis_url="redis+cluster://h1,h2", wait_aof=True)

"""docs/operations.md names every setting, and every component and overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("kind", [GatewaySettings, TextWorkerSettings, ImageWorkerSettings])
def test_every_setting_is_documented(
    kind: type[GatewaySettings | TextWorkerSettings | ImageWorkerSettings],
) -> None:
    missing = [field for field in kind.model_fields if f"`MMI_{field.upper()}`" not in TEXT]
    assert missing == []


@pytest.mark.parametrize("folder", ["components", "overlays"])
def test_every_component_and_overlay_is_documented(folder: str) -> None:
    names = [path.name for path in (ROOT / "k8s" / folder).iterdir()]
    missing = [
        name
        for name in names
        if f"`{name}`" not in TEXT and not name.startswith("network-policies-")
    ]
    assert names
    assert missing == []

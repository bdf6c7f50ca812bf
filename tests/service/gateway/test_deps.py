"""The parts of a gateway, made from its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.broker.owners import OwnerLimits
from service.config import GatewaySettings
from service.gateway.app import create_app
from service.gateway.auth import KeyFileError
from service.gateway.deps import defaults_of, key_file_of, limits_of


def test_limits_follow_the_settings() -> None:
    settings = GatewaySettings(
        max_body_bytes=5000,
        max_bodies_bytes=2000,
        max_text_characters=7,
        max_images_in=3,
        max_image_pixels=100,
        max_images_pixels=200,
    )
    limits = limits_of(settings)

    # All bodies together may at least be as large as one.
    assert (limits.body_bytes, limits.bodies_bytes) == (5000, 5000)
    assert (limits.text_characters, limits.images) == (7, 3)
    assert (limits.image.image_pixels, limits.image.images_pixels) == (100, 200)


def test_defaults_follow_the_settings() -> None:
    settings = GatewaySettings(model_name="m", max_choices=2, requests_per_minute=5)
    defaults = defaults_of(settings)

    assert (defaults.model, defaults.max_choices) == ("m", 2)
    assert defaults.owner_limits == OwnerLimits(max_concurrent=0, requests_per_minute=5)


def test_an_application_without_a_key_file_is_not_made(tmp_path: Path) -> None:
    for settings in (GatewaySettings(), GatewaySettings(api_keys_file=tmp_path / "missing.json")):
        with pytest.raises(KeyFileError):
            create_app(settings)
    assert key_file_of(GatewaySettings(auth="off", api_keys_file=tmp_path / "unused.json")) is None

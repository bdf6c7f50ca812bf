"""Backgrounds differ by place, weather and time."""

from __future__ import annotations

from model.training.world.drawn.painting.background import all_backgrounds, background_image


def test_every_background_has_its_own_image() -> None:
    images = {background_image(each, 24).tobytes() for each in all_backgrounds()}
    assert len(images) == len(all_backgrounds())
